"""The report's tables: success, paired differences, reported numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from experiments import reported
from experiments.comparison import gather, statistics
from experiments.comparison.gather import FINAL, START, Run
from experiments.comparison.results import ALL, Results
from hgpo_jax import config as config_lib

MISSING, UNREPORTED = 'missing', '-'
_SIZE = '1.5b'  # of the reported models that stand beside ours
_SPLITS = {
  'valid_seen': 'in distribution',
  'valid_unseen': 'out of distribution',
}
_Row = tuple[str, Sequence[Run], str]  # label, runs, phase


def success_section(results: Results) -> list[str]:
  lines = ['## Success by type of task', '']
  lines.append('Mean over seeds ± sample standard deviation between seeds.')
  for split in results.splits:
    masks = results.columns(split)
    rows = [
      [label, *_success_cells(runs, phase, split, masks)]
      for label, runs, phase in (*_starts(results), *_finals(results))
    ]
    lines += ['', f'### {split_name(split).capitalize()} ({split})', '']
    lines += table(['method', 'seeds', *masks], rows)
  return lines


def _finals(results: Results) -> list[_Row]:
  return [
    (m.label, list(results.runs.get(name, {}).values()), FINAL)
    for name, m in results.methods.items()
  ]


def _starts(results: Results) -> list[_Row]:
  """The warm starts; methods with other prompts have their own."""
  alike: dict[str, list[str]] = {}  # settings -> methods
  for name in results.methods:
    for run in list(results.runs.get(name, {}).values())[:1]:
      one = dataclasses.replace(run.config, seed=0)
      settings = repr(config_lib.warm_start_fields(one))
      alike.setdefault(settings, []).append(name)
  most = max(alike.values(), key=len)
  rows: list[_Row] = []
  for names in alike.values():
    runs = {s: run for name in names for s, run in results.runs[name].items()}
    labels = ', '.join(results.methods[name].label for name in names)
    label = '*warm start*' + (f' of {labels}' if names != most else '')
    rows.append((label, list(runs.values()), START))
  return rows


def _success_cells(
  runs: Sequence[Run],
  phase: str,
  split: str,
  masks: Mapping[str, np.ndarray],
) -> list[str]:
  if not runs:
    return ['0', *[MISSING] * len(masks)]
  won = 100 * gather.won(runs, phase, split)  # [S, G]
  cells = [_spread(won[:, mask].mean(1)) for mask in masks.values()]
  return [str(len(runs)), *cells]


def differences_section(results: Results, reference: str) -> list[str]:
  if reference not in results.runs or reference not in results.methods:
    return []
  others = [name for name in results.methods if name != reference]
  label = results.methods[reference].label
  lines = [
    f'## Differences to {label}',
    '',
    f'Points of success, a method minus {label}, with 95 % intervals: games '
    '(shared by the methods) and seeds are redrawn together, '
    f'{statistics.DRAWS:,} times. Where an interval contains 0, no difference '
    'was seen. The last column holds the difference of each seed.',
  ]
  for split in results.splits:
    rows = [
      [
        results.methods[name].label,
        *_difference_cells(*results.differences(name, reference, split)),
      ]
      for name in others
    ]
    head = ['method', 'seeds', 'difference', 'verdict', 'by seed']
    lines += ['', f'### {ALL}, {split_name(split)}', '', *table(head, rows)]
  return [*lines, '', *_by_type(results, reference, others)]


def _by_type(
  results: Results, reference: str, others: Sequence[str]
) -> list[str]:
  lines = [
    '### By type of task',
    '',
    'Intervals that do not contain 0 are bold. One in 20 would be so by chance '
    'if no method differed.',
  ]
  for split in results.splits:
    masks = results.columns(split)
    rows = [
      [
        results.methods[name].label,
        *_cells_by_type(results.differences(name, reference, split)[1], masks),
      ]
      for name in others
    ]
    lines += ['', *table([split_name(split), *masks], rows)]
  return lines


def _difference_cells(seeds: Sequence[int], values: np.ndarray) -> list[str]:
  """The interval of `[S, G]` differences, what it says, and each seed's."""
  if not seeds:
    return ['0', MISSING, MISSING, '']
  found = statistics.interval(values)
  by_seed = ', '.join(f'{x:+.1f}' for x in values.mean(1))
  return [str(len(seeds)), _interval(found), found.verdict, by_seed]


def _cells_by_type(
  values: np.ndarray, masks: Mapping[str, np.ndarray]
) -> list[str]:
  """The intervals of `[S, G]` differences, column by column."""
  if not values.size:
    return [MISSING] * len(masks)
  cells = []
  for mask in masks.values():
    found = statistics.interval(values[:, mask])
    seen = found.verdict != statistics.NO_DIFFERENCE
    cells.append(f'**{_interval(found)}**' if seen else _interval(found))
  return cells


def reported_section(results: Results) -> list[str]:
  """What papers report of ALFWorld; nothing in other worlds."""
  if results.any_run.config.env.world != 'alfworld':
    return []
  rows = []
  for name, method in results.methods.items():
    runs = list(results.runs.get(name, {}).values())
    ours = [
      _spread(100 * gather.won(runs, FINAL, split).mean(1)) if runs else MISSING
      for split in _SPLITS
      if split in results.splits
    ]
    found = [_figures(row) for row in _reported_rows(method.reported)]
    for cells in found or [[UNREPORTED] * 4]:
      rows.append([method.label, *ours, *cells])
  ours_head = [f'ours, {_SPLITS[s]}' for s in _SPLITS if s in results.splits]
  head = ['method', *ours_head, *_SPLITS.values(), 'one figure', 'source']
  return [
    '## Reported numbers',
    '',
    f'Of Qwen2.5-{_SIZE.upper()} on the released ALFWorld games, beside ours. '
    'Sizes and worlds differ (here a tiny policy plays small generated rooms), '
    'so that orders may be compared but no levels. A source that gives one '
    'figure does not say which split it is of.',
    '',
    *table(head, rows),
  ]


def _reported_rows(cell: tuple[str, int] | None) -> list[reported.Row]:
  """Rows of a method and its K; where there are variants, the mean-only one."""
  if cell is None:
    return []
  method, history = cell
  names = (method, f'{method}, without std')
  return [
    row
    for row in reported.ROWS
    if row.method in names
    and row.size == _SIZE
    and row.history in (None, history)
    and (row.seen or row.unseen or row.alfworld)
  ]


def _figures(row: reported.Row) -> list[str]:
  figures = [_figure(x) for x in (row.seen, row.unseen, row.alfworld)]
  return [*figures, row.source]


def _figure(figure: reported.Figure | None) -> str:
  if figure is None:
    return UNREPORTED
  std = '' if figure.std is None else f' ± {figure.std:g}'
  return f'{figure.mean:g}{std}'


def split_name(split: str) -> str:
  return _SPLITS.get(split, split)


def _spread(by_seed: np.ndarray) -> str:
  """Mean of `[S]`, and the spread where there are several."""
  mean = f'{by_seed.mean():.1f}'
  return mean if by_seed.size == 1 else f'{mean} ± {by_seed.std(ddof=1):.1f}'


def _interval(found: statistics.Interval) -> str:
  return f'{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
  lines = [f'| {" | ".join(row)} |' for row in (head, *rows)]
  return [lines[0], '|---' * len(head) + '|', *lines[1:]]
