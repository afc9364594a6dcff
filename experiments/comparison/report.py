"""The comparison in words."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from experiments import markdown, sessions
from experiments.comparison import plots, tables
from experiments.comparison.results import FINAL, Results

_PHASES = ('warm_start', 'rollout', 'update', 'evaluation')


def write(results: Results) -> str:
  """The report, in Markdown."""
  blocks = [
    *_introduction(results),
    *tables.success_section(results),
    *(
      block
      for reference in results.references
      for block in tables.differences_section(results, reference)
    ),
    *_curves(results),
    *tables.reported_section(results),
    *_cost(results),
    *_settings(results),
  ]
  return '\n\n'.join(blocks) + '\n'


def _introduction(results: Results) -> Iterator[str]:
  run = results.any_run
  episodes = run.episodes * run.config.iterations
  games = ', '.join(
    f'{run.outcomes(FINAL, split).size} games of {split} '
    f'({tables.split_name(split)})'
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
    yield f'**{markdown.MISSING}**: {", ".join(missing)}.'


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
    cells = [markdown.MISSING] * (len(_PHASES) + 1)
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
