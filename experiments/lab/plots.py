"""Four figures of the lab's tables."""

from __future__ import annotations

import pathlib

import matplotlib
import pandas as pd

matplotlib.use('Agg')  # files only
from matplotlib import pyplot  # noqa: E402

from experiments.lab.tables import Tables  # noqa: E402

_STYLES = {
  'grpo': ('black', 'o'),
  'gigpo': ('tab:orange', 's'),
  'hgpo_shrink': ('tab:green', 'D'),
}
_PLACE = ['skill', 'depth', 'group_size']
_BLUES = ('#9ecae1', '#3182bd', '#08306b')


def draw(tables: Tables, folder: pathlib.Path) -> list[str]:
  """Draws all figures; returns their file names."""
  cells = _drawn(tables.cells)
  figures = [
    ('mse.png', 'mean', "mean squared error / GRPO's", 'ratio'),
    ('explained.png', 'mean', 'explained share', 'explained'),
    ('rank.png', 'mean_std', 'rank correlation', 'rank'),
    ('sign.png', 'mean_std', 'sign accuracy (balanced)', 'sign_balanced'),
  ]
  for name, form, label, field in figures:
    shown = cells[cells['form'] == form]
    _grid(shown, f'{label}, {form} forms', field, folder / name)
  _levels(tables.levels, folder / 'levels.png')
  return [name for name, *_ in figures] + ['levels.png']


def _drawn(cells: pd.DataFrame) -> pd.DataFrame:
  """The estimators that are drawn, with a label, and their error as a ratio."""
  cells = cells[
    (cells['estimator'].isin(_STYLES) | (cells['weighting'] == 'released'))
    & (cells['variant'] == '')
  ]
  labels = [
    name if name != 'hgpo' else f'hgpo, alpha {alpha:g}'
    for name, alpha in zip(cells['estimator'], cells['alpha'], strict=True)
  ]
  grpo = cells[(cells['estimator'] == 'grpo') & (cells['form'] == 'mean')]
  reference = grpo.set_index(_PLACE)['mse'].rename('reference')
  cells = cells.assign(label=labels).join(reference, on=_PLACE)
  return cells.assign(ratio=cells['mse'] / cells['reference'])


def _grid(
  cells: pd.DataFrame, title: str, field: str, path: pathlib.Path
) -> None:
  """A panel per skill and group size: value over K, a line per method."""
  skills, depths, sizes = (sorted(cells[x].unique()) for x in _PLACE)
  labels = cells['label'].unique()
  hgpo = [x for x in labels if x.startswith('hgpo,')]
  figure, axes = pyplot.subplots(
    len(sizes),
    len(skills),
    squeeze=False,
    sharex=True,
    sharey='row',
    figsize=(1.5 + 2.8 * len(skills), 1.2 + 2.1 * len(sizes)),
    layout='constrained',
  )
  for row, size in enumerate(sizes):
    for column, skill in enumerate(skills):
      axis = axes[row, column]
      panel = cells[(cells['skill'] == skill) & (cells['group_size'] == size)]
      for label in labels:
        color, marker = _STYLES.get(label) or (
          _BLUES[hgpo.index(label) % len(_BLUES)],
          'o',
        )
        axis.plot(
          range(len(depths)),
          panel[panel['label'] == label].sort_values('depth')[field],
          color=color,
          marker=marker,
          markersize=4,
          label=label,
        )
      axis.set_xticks(range(len(depths)), [f'{x}' for x in depths])
      axis.grid(alpha=0.3)
      axis.set_title(f'skill {skill:g}, G = {size}', fontsize=9)
  for axis in axes[-1]:
    axis.set_xlabel('K')
  handles, labels = axes[0, 0].get_legend_handles_labels()
  figure.legend(
    handles, labels, loc='outside lower center', ncols=3, fontsize=8
  )
  figure.suptitle(title)
  figure.savefig(path, dpi=110, metadata={'Software': None})
  pyplot.close(figure)


def _levels(levels: pd.DataFrame, path: pathlib.Path) -> None:
  """Shares of rows, bias, and differences of true value, over levels."""
  depth, size = levels['depth'].max(), levels['group_size'].max()
  shown = levels[(levels['depth'] == depth) & (levels['group_size'] == size)]
  panels = (
    ('share_spread', 'rows in a group with spread'),
    ('value_gap_rms', "V(h') - V(h) in a group, rms"),
    ('bias_rms', 'bias of the level, rms'),
  )
  figure, axes = pyplot.subplots(
    1, len(panels), figsize=(10, 3.4), layout='constrained'
  )
  for axis, (name, label) in zip(axes, panels, strict=True):
    for skill, line in shown.groupby('skill'):
      axis.plot(line['level'], line[name], marker='o', label=f'skill {skill:g}')
    axis.set_xticks(range(depth + 1))
    axis.set_xlabel('level k')
    axis.set_title(label, fontsize=9)
    axis.grid(alpha=0.3)
  axes[0].legend(fontsize=8)
  figure.suptitle(
    f'contexts of k earlier observations, K = {depth}, G = {size}'
  )
  figure.savefig(path, dpi=110, metadata={'Software': None})
  pyplot.close(figure)
