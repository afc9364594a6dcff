"""Runs (method x seed) that are to be played, and playing them."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from experiments import command as command_lib
from experiments import folders, logs, supervision
from experiments.configs import base
from hgpo_jax.train import config_checks

TRAINER = (sys.executable, '-m', 'experiments.train')


class CompareError(Exception):
  """Runs that cannot be compared; the text says the cure."""


class PlannedRun(NamedTuple):
  """One run of the comparison.

  Attributes:
    method: a name in the `METHODS` of the config file.
    seed: of the run.
    folder: the run's; beside it stand its log and the warm starts' cache.
    config: every field of the experiment, as plain values.
    flags: those that `experiments.train` is given.
  """

  method: str
  seed: int
  folder: pathlib.Path
  config: dict[str, Any]
  flags: tuple[str, ...]

  @property
  def name(self) -> str:
    """For people, and of the run's folder."""
    return f'{self.method}_seed{self.seed}'

  @property
  def log(self) -> pathlib.Path:
    """What the run prints."""
    return self.folder.with_name(f'{self.name}.log')


def load_methods(path: str, named: Iterable[str] = ()) -> Any:
  """Imports a config file with `METHODS`, `MAIN` and `REFERENCES`.

  Raises: ConfigError where there is no such file; CompareError where it lacks
    one of these, or a method that is `named`.
  """
  module = command_lib.load(path)
  for name in ('METHODS', 'MAIN', 'REFERENCES'):
    if not hasattr(module, name):
      raise CompareError(
        f'{path} has no {name}; experiments/configs/compare.py shows what a '
        'comparison needs.'
      )
  if unknown := sorted({*named} - {*module.METHODS}):
    raise CompareError(
      f'no method {", ".join(unknown)} in {path}; it holds '
      f'{", ".join(module.METHODS)}.'
    )
  return module


def make_runs(
  path: str,
  methods: Sequence[str],
  seeds: Sequence[int],
  folder: pathlib.Path,
  budget: dict[str, int],
) -> list[PlannedRun]:
  """Lists the runs, all methods of a seed before the next seed.

  Args:
    path: the config file with the methods.
    methods: names; one that is named twice counts once.
    seeds: with which each of them is played, likewise.
    folder: where the runs' folders are.
    budget: dotted fields that are set alike in all of them.

  Raises: CompareError as `load_methods`, and for runs without evaluation;
    ConfigError for a config that cannot work.
  """
  module = load_methods(path, methods)
  runs = []
  for seed in dict.fromkeys(seeds):
    for method in dict.fromkeys(methods):
      own = folder / f'{method}_seed{seed}'
      fields = {base.SEED: seed, base.RUN_DIR: str(own), **budget}
      config = module.get_config(method)
      config.update_from_flattened_dict(fields)
      config_checks.check(base.freeze(config))
      if config.eval.games < 0:
        raise CompareError(
          f'eval.games is {config.eval.games}, which plays none; expected a '
          'number of games per split, or 0 for all: finished runs are compared '
          'by them.'
        )
      flags = [f'--config={path}:{method}']
      flags += [f'--config.{name}={value}' for name, value in fields.items()]
      runs.append(PlannedRun(method, seed, own, config.to_dict(), tuple(flags)))
  return runs


def unfinished(runs: Iterable[PlannedRun]) -> list[PlannedRun]:
  """Returns the runs that have no summary yet; see `folders.unfinished`."""
  of_folder = {run.folder: run for run in runs}
  expected = {folder: run.config for folder, run in of_folder.items()}
  return [of_folder[x] for x in folders.unfinished(expected, 'another --out')]


def command(run: PlannedRun, trainer: Sequence[str] = TRAINER) -> list[str]:
  """What plays a run, from the start or from where it was interrupted."""
  started = (run.folder / 'config.json').exists()
  return [*trainer, *run.flags, *(['--resume'] if started else [])]


def play(
  runs: Sequence[PlannedRun],
  jobs: int = 1,
  trainer: Sequence[str] = TRAINER,
  say: Callable[[str], None] = print,
) -> list[PlannedRun]:
  """Plays runs, `jobs` at once, as `supervision.play` does.

  Returns: the runs that failed.
  """

  def work(run: PlannedRun) -> supervision.Work:
    return supervision.Work(
      run.name,
      lambda: [logs.popen(command(run, trainer), run.log)],
      (run.log,),
    )

  supervision.play([work(run) for run in runs], jobs, say)
  return [run for run in runs if not folders.is_finished(run.folder)]
