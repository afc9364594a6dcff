"""All that a comparison reports, and its CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from envs import registry
from envs.base import Task
from experiments import reported
from experiments.comparison.gather import Runs
from experiments.folders import RunFolder

ALL = 'All'
START, FINAL = 'warm_start', 'final'  # the phases of a summary


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
    return next(run for seeds in self.runs.values() for run in seeds.values())

  @property
  def splits(self) -> Sequence[str]:
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
    found = {
      reported.COLUMNS.get(kind, kind): kinds == kind
      for kind in order
      if kind in kinds
    }
    return {**found, ALL: np.ones(len(games), bool)}

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
    records = []
    for split in self.splits:
      masks = self.columns(split)
      for method in self.methods:
        for seed, run in sorted(self.runs.get(method, {}).items()):
          for phase in (START, FINAL):
            outcomes = run.outcomes(phase, split)
            for column, mask in masks.items():
              records.append(
                {
                  'method': method,
                  'seed': seed,
                  'phase': phase,
                  'split': split,
                  'column': column,
                  'games': int(mask.sum()),
                  'success': round(outcomes[mask].mean(), 4),
                }
              )
    return pd.DataFrame(records).to_csv(index=False, lineterminator='\n')


def won(runs: Sequence[RunFolder], phase: str, split: str) -> np.ndarray:
  """The outcomes of a method's runs, `[S, G]`."""
  return np.stack([run.outcomes(phase, split) for run in runs])
