"""Finished runs of a comparison, all that is reported of them, and its CSV."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from envs import registry
from envs.base import Task
from experiments import reported
from experiments.comparison.planned import CompareError
from experiments.folders import RunFolder
from hgpo_jax import config as config_lib

Runs = dict[str, dict[int, RunFolder]]  # method -> seed -> run

ALL = 'All'
START, FINAL = 'warm_start', 'final'  # the phases of a summary


def read(folder: pathlib.Path, methods: Collection[str]) -> Runs:
  """Finds the finished runs of some methods, in order.

  Raises: CompareError where two of them have different budgets.
  """
  places = []
  for path in folder.glob('*_seed*/summary.json'):
    name = re.fullmatch(r'(.+)_seed(\d+)', path.parent.name)
    if name and name[1] in methods:
      places.append((name[1], int(name[2]), path.parent))
  by_method: Runs = {}
  for method, seed, path in sorted(places):
    by_method.setdefault(method, {})[seed] = RunFolder(path)
  runs = [run for seeds in by_method.values() for run in seeds.values()]
  for run in runs[1:]:
    _check_budget(runs[0], run)
  return by_method


def _check_budget(one: RunFolder, other: RunFolder) -> None:
  differences = config_lib.differences(
    one.config.to_dict(),
    other.config.to_dict(),
    config_lib.same_budget,
    one.config,
  )
  if differences:
    raise CompareError(
      f'{one.path} and {other.path} have different budgets: '
      f'{"; ".join(differences)}. Expected equal ones: move one of these '
      'folders away.'
    )


class Results(NamedTuple):
  """All that is reported.

  Attributes:
    methods: name -> what it is, in the tables' order; see configs/compare.py.
    references: methods that differences are taken to.
    seeds: those that every method should have.
    runs: method -> seed -> run; at least one.
    sessions: see `experiments.sessions.describe`.
  """

  methods: Mapping[str, Any]
  references: Sequence[str]
  seeds: Sequence[int]
  runs: Runs
  sessions: Sequence[Mapping[str, Any]]

  @property
  def any_run(self) -> RunFolder:
    """The first of all, for what they share."""
    return next(run for seeds in self.runs.values() for run in seeds.values())

  @property
  def splits(self) -> Sequence[str]:
    """In which all runs were evaluated."""
    return self.any_run.config.eval.splits

  def runs_of(self, method: str) -> list[RunFolder]:
    """The runs of a method, one per seed; perhaps none."""
    return list(self.runs.get(method, {}).values())

  def columns(self, split: str) -> dict[str, np.ndarray]:
    """Column -> which games `[G]` of a split it is about; the last is all."""
    env = self.any_run.config.env
    world = registry.make_world(env.world, env.chosen)
    games = range(self.any_run.outcomes(FINAL, split).size)
    kinds = np.array([str(world.kind(Task(split, i))) for i in games])
    order = dict.fromkeys([*reported.COLUMNS, *sorted(kinds)])
    of_kinds = {
      reported.COLUMNS.get(kind, kind): kinds == kind
      for kind in order
      if kind in kinds
    }
    return {**of_kinds, ALL: np.ones(len(games), bool)}

  def differences(
    self, method: str, reference: str, split: str
  ) -> tuple[Sequence[int], np.ndarray]:
    """Paired differences of final success in percent, and their seeds.

    Returns: the seeds S that both have, and `[S, G]`.
    """
    own, other = self.runs.get(method, {}), self.runs.get(reference, {})
    seeds = sorted(own.keys() & other.keys())
    if not seeds:
      return seeds, np.zeros((0, 0))
    mine, theirs = (
      won([runs[seed] for seed in seeds], FINAL, split) for runs in (own, other)
    )
    return seeds, 100 * (mine - theirs)

  def csv(self) -> str:
    """Writes one line per run, phase, split and column."""
    records = [
      {
        'method': method,
        'seed': seed,
        'phase': phase,
        'split': split,
        'column': column,
        'games': int(mask.sum()),
        'success': round(run.outcomes(phase, split)[mask].mean(), 4),
      }
      for split, masks in ((x, self.columns(x)) for x in self.splits)
      for method in self.methods
      for seed, run in sorted(self.runs.get(method, {}).items())
      for phase in (START, FINAL)
      for column, mask in masks.items()
    ]
    return pd.DataFrame(records).to_csv(index=False, lineterminator='\n')


def won(runs: Sequence[RunFolder], phase: str, split: str) -> np.ndarray:
  """The outcomes of a method's runs, `[S, G]`."""
  return np.stack([run.outcomes(phase, split) for run in runs])
