"""The report of a comparison.

A section is its blocks of Markdown, in order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from experiments import bootstrap, markdown, reported, sessions
from experiments.comparison import plots
from experiments.comparison.results import ALL, FINAL, START, Results, won
from experiments.folders import RunFolder
from experiments.markdown import MISSING, UNREPORTED
from hgpo_jax import config as config_lib

_SIZE = '1.5b'  # of the reported models that stand beside ours
_SPLITS = {
  'valid_seen': 'in distribution',
  'valid_unseen': 'out of distribution',
}
# Of the sign of an interval.
VERDICTS = {0: markdown.NO_DIFFERENCE, 1: 'higher', -1: 'lower'}
_Row = tuple[str, Sequence[RunFolder], str]  # label, runs, phase
_PHASES = ('warm_start', 'rollout', 'update', 'evaluation')


def write(results: Results) -> str:
  """The report, in Markdown."""
  blocks = [
    *_introduction(results),
    *_success(results),
    *(
      block
      for reference in results.references
      for block in _differences(results, reference)
    ),
    *_curves(results),
    *_reported(results),
    *_cost(results),
    *_settings(results),
  ]
  return '\n\n'.join(blocks) + '\n'


def _introduction(results: Results) -> Iterator[str]:
  run = results.any_run
  episodes = run.episodes * run.config.iterations
  games = ', '.join(
    f'{run.outcomes(FINAL, split).size} games of {split} ({_split_name(split)})'
    for split in results.splits
  )
  yield '# Comparison of methods at equal budgets'
  yield (
    f'Every run plays {episodes:,} episodes ({run.config.iterations} '
    f'iterations of {run.episodes}) from a warm start that is shared by the '
    'methods of a seed whose prompts are alike. It is then evaluated at '
    f'temperature {run.temperature} on {games}, the same ones for every run. '
    'Success in percent.'
  )
  missing = [
    f'{method} seed {seed}'
    for method in results.methods
    for seed in results.seeds
    if seed not in results.runs.get(method, {})
  ]
  if missing:
    yield f'**{MISSING}**: {", ".join(missing)}.'


def _success(results: Results) -> Iterator[str]:
  """Success of each method, after the warm starts."""
  yield '## Success by type of task'
  yield 'Mean over seeds ± sample standard deviation between seeds.'
  finals = [
    (method.label, results.runs_of(name), FINAL)
    for name, method in results.methods.items()
  ]
  for split in results.splits:
    masks = results.columns(split)
    rows = []
    for label, runs, phase in (*_starts(results), *finals):
      cells = [MISSING] * len(masks)
      if runs:
        percent = 100 * won(runs, phase, split)  # [S, G]
        by_seed = [percent[:, mask].mean(1) for mask in masks.values()]
        cells = [f'{reported.figure_of(x):.1f}' for x in by_seed]
      rows.append([label, str(len(runs)), *cells])
    yield f'### {_split_name(split).capitalize()} ({split})'
    yield markdown.table(['method', 'seeds', *masks], rows)


def _starts(results: Results) -> list[_Row]:
  """The warm starts; methods with other prompts have their own."""
  alike: dict[str, list[str]] = {}  # settings -> methods
  for name in results.methods:
    for run in results.runs_of(name)[:1]:
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


def _differences(results: Results, reference: str) -> Iterator[str]:
  """Paired differences to one method; nothing where it has no runs."""
  if reference not in results.runs or reference not in results.methods:
    return
  others = [name for name in results.methods if name != reference]
  label = results.methods[reference].label
  yield f'## Differences to {label}'
  yield (
    f'Points of success, a method minus {label}, with 95 % intervals: games '
    '(shared by the methods) and seeds are redrawn together, '
    f'{bootstrap.DRAWS:,} times. Where an interval contains 0, no difference '
    'was seen. The last column holds the difference of each seed.'
  )
  head = ['method', 'seeds', 'difference', 'verdict', 'by seed']
  for split in results.splits:
    yield f'### {ALL}, {_split_name(split)}'
    yield markdown.table(
      head,
      (
        [
          results.methods[name].label,
          *_difference(*results.differences(name, reference, split)),
        ]
        for name in others
      ),
    )
  yield '### By type of task'
  yield (
    'Intervals that do not contain 0 are bold. One in 20 would be so by chance '
    'if no method differed.'
  )
  for split in results.splits:
    masks = results.columns(split)
    rows = []
    for name in others:
      _, values = results.differences(name, reference, split)
      cells = [MISSING] * len(masks)
      if values.size:
        intervals = map(
          bootstrap.pigeonhole, (values[:, x] for x in masks.values())
        )
        cells = [f'**{x:+.1f}**' if x.sign else f'{x:+.1f}' for x in intervals]
      rows.append([results.methods[name].label, *cells])
    yield markdown.table([_split_name(split), *masks], rows)


def _difference(seeds: Sequence[int], values: np.ndarray) -> list[str]:
  """The interval of `[S, G]` differences, what it says, and each seed's."""
  if not seeds:
    return ['0', MISSING, MISSING, '']
  interval = bootstrap.pigeonhole(values)
  by_seed = ', '.join(f'{x:+.1f}' for x in values.mean(1))
  return [str(len(seeds)), f'{interval:+.1f}', VERDICTS[interval.sign], by_seed]


def _reported(results: Results) -> Iterator[str]:
  """What papers report of ALFWorld; nothing in other worlds."""
  if results.any_run.config.env.world != 'alfworld':
    return
  splits = [split for split in _SPLITS if split in results.splits]
  rows = []
  for name, method in results.methods.items():
    runs = results.runs_of(name)
    ours = [
      f'{reported.figure_of(100 * won(runs, FINAL, split).mean(1)):.1f}'
      if runs
      else MISSING
      for split in splits
    ]
    for cells in _rows_of(method.reported) or [[UNREPORTED] * 4]:
      rows.append([method.label, *ours, *cells])
  ours_head = [f'ours, {_SPLITS[split]}' for split in splits]
  head = ['method', *ours_head, *_SPLITS.values(), 'one figure', 'source']
  yield '## Reported numbers'
  yield (
    f'Of Qwen2.5-{_SIZE.upper()} on the released ALFWorld games, beside ours. '
    'Sizes and worlds differ (here a tiny policy plays small generated rooms), '
    'so that orders may be compared but no levels. A source that gives one '
    'figure does not say which split it is of.'
  )
  yield markdown.table(head, rows)


def _rows_of(cell: tuple[str, int] | None) -> list[list[str]]:
  """Of a method and its K; where there are variants, the mean-only one."""
  if cell is None:
    return []
  method, history = cell
  rows = []
  for row in reported.ROWS:
    figures = (row.seen, row.unseen, row.alfworld)
    if (
      row.method in (method, f'{method}, without std')
      and row.size == _SIZE
      and row.history in (None, history)
      and any(figures)
    ):
      cells = [f'{x:g}' if x else UNREPORTED for x in figures]
      rows.append([*cells, row.source])
  return rows


def _split_name(split: str) -> str:
  """A split as papers call it."""
  return _SPLITS.get(split, split)


def _curves(results: Results) -> Iterator[str]:
  width = plots.window(results.any_run.success.size)
  reference = results.methods.get(results.references[0])
  dashed = f', the dashed one that of {reference.label}' if reference else ''
  yield '## Learning curves'
  yield (
    f'Success of the training episodes, over {width} iterations: thin lines '
    'are seeds, the thick one is their mean with its 95 % band (Student, point '
    f'by point){dashed}. Methods of a seed play the same tasks.'
  )
  yield '![Learning curves](curves.png)'


def _cost(results: Results) -> Iterator[str]:
  rows = []
  for name, method in results.methods.items():
    seconds = [
      [run.summary['seconds'].get(phase, 0.0) for phase in _PHASES]
      for run in results.runs_of(name)
    ]
    cells = [MISSING] * (len(_PHASES) + 1)
    if seconds:
      means = np.mean(seconds, 0)
      cells = [f'{x:.0f}' for x in (*means, means[1:].sum())]
    rows.append([method.label, *cells])
  head = ['method', 'warm start', *_PHASES[1:], 'after the warm start']
  yield '## Cost'
  yield (
    'Seconds per run, mean over seeds. A warm start that was made before is '
    'only copied.'
  )
  yield markdown.table(head, rows)
  if results.sessions:
    yield '\n'.join(sessions.lines(results.sessions))


def _settings(results: Results) -> Iterator[str]:
  yield '## Settings'
  yield markdown.table(
    ['method', 'name', 'settings'],
    (
      [
        method.label,
        f'`{name}`',
        ', '.join(f'{k}={v}' for k, v in method.overrides.items()),
      ]
      for name, method in results.methods.items()
    ),
  )
