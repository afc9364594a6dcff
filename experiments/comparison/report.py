"""The comparison in words."""

from __future__ import annotations

import numpy as np

from experiments import sessions
from experiments.comparison import plots, tables
from experiments.comparison.gather import FINAL
from experiments.comparison.results import Results

_PHASES = ('warm_start', 'rollout', 'update', 'evaluation')


def markdown(results: Results) -> str:
  """Writes the report."""
  sections = [
    _introduction(results),
    tables.success_section(results),
    *(tables.differences_section(results, x) for x in results.references),
    _curves(results),
    tables.reported_section(results),
    _cost(results),
    _settings(results),
  ]
  return '\n\n'.join('\n'.join(lines) for lines in sections if lines) + '\n'


def _introduction(results: Results) -> list[str]:
  run = results.any_run
  episodes = run.episodes * run.config.iterations
  games = ', '.join(
    f'{run.outcomes(FINAL, split).size} games of {split} '
    f'({tables.split_name(split)})'
    for split in results.splits
  )
  missing = [
    f'{method} seed {seed}'
    for method in results.methods
    for seed in results.seeds
    if seed not in results.runs.get(method, {})
  ]
  return [
    '# Comparison of methods at equal budgets',
    '',
    f'Every run plays {episodes:,} episodes ({run.config.iterations} '
    f'iterations of {run.episodes}) from a warm start that is shared by the '
    'methods of a seed whose prompts are alike. It is then evaluated at '
    f'temperature {run.temperature} on {games}, the same ones for every run. '
    'Success in percent.',
    *(['', f'**{tables.MISSING}**: {", ".join(missing)}.'] if missing else []),
  ]


def _curves(results: Results) -> list[str]:
  width = plots.window(results.any_run.success.size)
  reference = results.methods.get(results.references[0])
  dashed = f', the dashed one that of {reference.label}' if reference else ''
  return [
    '## Learning curves',
    '',
    f'Success of the training episodes, over {width} iterations: thin lines '
    'are seeds, the thick one is their mean with its 95 % band (Student, point '
    f'by point){dashed}. Methods of a seed play the same tasks.',
    '',
    '![Learning curves](curves.png)',
  ]


def _cost(results: Results) -> list[str]:
  rows = []
  for name, method in results.methods.items():
    runs = results.runs.get(name, {}).values()
    seconds = [
      [r.summary['seconds'].get(p, 0.0) for p in _PHASES] for r in runs
    ]
    means = np.mean(seconds, 0) if seconds else [np.nan] * len(_PHASES)
    after = np.sum(means[1:])
    cells = [f'{x:.0f}' if seconds else tables.MISSING for x in (*means, after)]
    rows.append([method.label, *cells])
  head = ['method', 'warm start', *_PHASES[1:], 'after the warm start']
  return [
    '## Cost',
    '',
    'Seconds per run, mean over seeds. A warm start that was made before is '
    'only copied.',
    '',
    *tables.table(head, rows),
    '',
    *sessions.lines(results.sessions),
  ]


def _settings(results: Results) -> list[str]:
  rows = [
    [
      m.label,
      f'`{name}`',
      ', '.join(f'{k}={v}' for k, v in m.overrides.items()),
    ]
    for name, m in results.methods.items()
  ]
  head = ['method', 'name', 'settings']
  return ['## Settings', '', *tables.table(head, rows)]
