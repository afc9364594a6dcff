"""Compares methods at equal budgets: `python -m experiments.compare`.

Plays every method of a config file with every seed, one `experiments.train`
after another, and writes `report.md`, `curves.png` and `table.csv`. Finished
runs are kept, interrupted ones go on, and `--seeds=3,4` later adds seeds to the
same tables.
"""

from __future__ import annotations

import pathlib
import shutil
import sys

import jax
from absl import flags

from experiments import command, sessions, supervision
from experiments.comparison import planned, plots, report
from experiments.comparison import results as results_lib
from experiments.comparison.planned import CompareError, PlannedRun
from experiments.comparison.results import Results
from experiments.configs import base
from hgpo_jax.train import metrics
from hgpo_jax.types import ConfigError

_CONFIG = flags.DEFINE_string(
  'config', 'experiments/configs/compare.py', 'File with the methods.'
)
_METHODS = flags.DEFINE_list('methods', None, "Default: the file's MAIN.")
_SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'Of the runs.')
_ITERATIONS = flags.DEFINE_integer(
  'iterations', None, "Of every run; default: the file's."
)
_GAMES = flags.DEFINE_integer(
  'eval_games', None, "Per split; default: the file's."
)
_OUT = flags.DEFINE_string('out', 'runs/compare', 'Folder of runs and report.')
_JOBS = flags.DEFINE_integer('jobs', 1, 'Runs at once.', lower_bound=1)
_REPORT_ONLY = flags.DEFINE_bool('report_only', False, 'Play nothing.')
_RESULTS = flags.DEFINE_string(
  'results', '', 'Folder that the report is copied to, if any.'
)
flags.register_validator(
  'seeds',
  lambda seeds: bool(seeds) and all(seed.isdecimal() for seed in seeds),
  message='expected numbers with commas between, such as --seeds=0,1,2',
)


def main() -> None:
  """Plays, gathers, and writes the report."""
  jax.config.update('jax_platforms', 'cpu')  # the runs have the accelerator
  supervision.end_like_ctrl_c()  # and the runs save what they have
  out = pathlib.Path(_OUT.value)
  failed: list[PlannedRun] = []
  try:
    if not _REPORT_ONLY.value:
      failed = _play(out)
    results = _gather(out)
  except KeyboardInterrupt:
    sys.exit('Stopped. The same command goes on from what is saved.')
  written = _write(results, out)
  print(f'{written[0]} written')
  if _RESULTS.value:
    copies = pathlib.Path(_RESULTS.value)
    copies.mkdir(parents=True, exist_ok=True)
    for path in written:
      shutil.copy(path, copies)
  if failed:
    names = ', '.join(run.name for run in failed)
    sys.exit(
      f'Failed: {names}. Their logs are in {out / "runs"}; the same command '
      'plays them again.'
    )


def _play(out: pathlib.Path) -> list[PlannedRun]:
  """Plays what is not finished; returns what failed."""
  methods = _METHODS.value or planned.load_methods(_CONFIG.value).MAIN
  flag_of = {
    base.name(lambda c: c.iterations): _ITERATIONS,
    base.name(lambda c: c.eval.games): _GAMES,
  }
  budget = {
    name: flag.value for name, flag in flag_of.items() if flag.value is not None
  }
  runs = planned.make_runs(
    _CONFIG.value, methods, _seeds(), out / 'runs', budget
  )
  waiting = planned.unfinished(runs)
  print(f'{len(waiting)} of {len(runs)} runs to play')
  if not waiting:
    return []
  sessions.append(out, sessions.describe('experiments.compare', sys.argv[1:]))
  return planned.play(waiting, _JOBS.value)


def _gather(out: pathlib.Path) -> Results:
  """Reads all finished runs, those of earlier seeds too."""
  module = planned.load_methods(_CONFIG.value, _METHODS.value or ())
  runs = results_lib.read(out / 'runs', module.METHODS)
  if not runs:
    raise CompareError(
      f'{out / "runs"} holds no finished run; play some without --report_only.'
    )
  names = {*(_METHODS.value or module.MAIN), *runs}
  played = {seed for seeds in runs.values() for seed in seeds}
  return Results(
    methods={n: m for n, m in module.METHODS.items() if n in names},
    references=module.REFERENCES,
    seeds=sorted({*played, *_seeds()}),
    runs=runs,
    sessions=sessions.read(out),
  )


def _write(results: Results, out: pathlib.Path) -> list[pathlib.Path]:
  paths = [out / name for name in ('report.md', 'table.csv', 'curves.png')]
  metrics.write_atomic(paths[0], report.write(results))
  metrics.write_atomic(paths[1], results.csv())
  labels = {name: method.label for name, method in results.methods.items()}
  plots.curves(paths[2], labels, results.runs, results.references[0])
  return paths


def _seeds() -> list[int]:
  return [int(seed) for seed in _SEEDS.value]


if __name__ == '__main__':
  command.run(main, CompareError, ConfigError)
