"""Four figures of the lab's tables."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib

matplotlib.use('Agg')  # files only
from matplotlib import pyplot  # noqa: E402

from experiments.lab.tables import Record, Tables  # noqa: E402

_STYLES = {
  'grpo': ('black', 'o'),
  'gigpo': ('tab:orange', 's'),
  'hgpo_shrink': ('tab:green', 'D'),
}
_BLUES = ('#9ecae1', '#3182bd', '#08306b')


def draw(tables: Tables, folder: pathlib.Path) -> list[str]:
  """Draws all figures; returns their file names."""
  raw = _index(x for x in tables.cells if x['form'] == 'mean')

  def ratio(record: Record) -> float:
    return record['mse'] / raw[_place(record)]['grpo']['mse']

  figures: list[tuple[str, str, str, Callable[[Record], float]]] = [
    ('mse.png', 'mean', "mean squared error / GRPO's", ratio),
    ('explained.png', 'mean', 'explained share', lambda x: x['explained']),
    ('rank.png', 'mean_std', 'rank correlation', lambda x: x['rank']),
    (
      'sign.png',
      'mean_std',
      'sign accuracy (balanced)',
      lambda x: x['sign_balanced'],
    ),
  ]
  for name, form, label, value in figures:
    records = [x for x in tables.cells if x['form'] == form]
    _grid(records, f'{label}, {form} forms', value, folder / name)
  _levels(tables.levels, folder / 'levels.png')
  return [name for name, *_ in figures] + ['levels.png']


def _place(record: Record) -> tuple[Any, ...]:
  return record['skill'], record['depth'], record['group_size']


def _index(records: Iterable[Record]) -> dict[Any, dict[str, Record]]:
  """Place -> label of a method -> its record; only the methods drawn."""
  found: dict[Any, dict[str, Record]] = {}
  for record in records:
    label = record['estimator']
    if label == 'hgpo':
      label = f'hgpo, alpha {record["alpha"]:g}'
    drawn = label in _STYLES or record['weighting'] == 'released'
    if drawn and not record['variant']:
      found.setdefault(_place(record), {})[label] = record
  return found


def _grid(
  records: Sequence[Record],
  title: str,
  value: Callable[[Record], float],
  path: pathlib.Path,
) -> None:
  """A panel per skill and group size: value over K, a line per method."""
  found = _index(records)
  skills, depths, sizes = (sorted(set(x)) for x in zip(*found, strict=True))
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
      cells = [found[skill, depth, size] for depth in depths]
      hgpo = [x for x in cells[0] if x.startswith('hgpo,')]
      for label in cells[0]:
        color, marker = _STYLES.get(label) or (
          _BLUES[hgpo.index(label) % len(_BLUES)],
          'o',
        )
        axis.plot(
          range(len(depths)),
          [value(cell[label]) for cell in cells],
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


def _levels(records: Sequence[Record], path: pathlib.Path) -> None:
  """Shares of rows, bias, and differences of true value, over levels."""
  depth = max(x['depth'] for x in records)
  size = max(x['group_size'] for x in records)
  records = [
    x for x in records if x['depth'] == depth and x['group_size'] == size
  ]
  panels = (
    ('share_spread', 'rows in a group with spread'),
    ('value_gap_rms', "V(h') - V(h) in a group, rms"),
    ('bias_rms', 'bias of the level, rms'),
  )
  figure, axes = pyplot.subplots(
    1, len(panels), figsize=(10, 3.4), layout='constrained'
  )
  for axis, (name, label) in zip(axes, panels, strict=True):
    for skill in sorted({x['skill'] for x in records}):
      line = [x for x in records if x['skill'] == skill]
      axis.plot(
        [x['level'] for x in line],
        [x[name] for x in line],
        marker='o',
        label=f'skill {skill:g}',
      )
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
