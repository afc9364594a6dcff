"""All that a comparison reports, and its CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import reported
from experiments.comparison import gather
from experiments.comparison.gather import FINAL, START, Run

ALL = 'All'
_FIELDS = ('method', 'seed', 'phase', 'split', 'column', 'games', 'success')


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
  runs: Mapping[str, Mapping[int, Run]]
  sessions: Sequence[Mapping[str, Any]]

  @property
  def any_run(self) -> Run:
    return next(run for seeds in self.runs.values() for run in seeds.values())

  @property
  def splits(self) -> Sequence[str]:
    return self.any_run.config.eval.splits

  def columns(self, split: str) -> dict[str, np.ndarray]:
    """Column -> which games `[G]` of a split it is about; the last is all."""
    kinds = gather.columns(self.any_run, split)
    order = [kind for kind in (*reported.COLUMNS, *kinds) if kind in kinds]
    found = {reported.COLUMNS.get(kind, kind): kinds[kind] for kind in order}
    return {**found, ALL: np.ones_like(kinds[order[0]])}

  def differences(
    self, method: str, reference: str, split: str
  ) -> tuple[Sequence[int], np.ndarray]:
    """Paired differences in percent `[S, G]`, and the seeds of both."""
    own = self.runs.get(method, {})
    seeds, values = gather.paired(own, self.runs.get(reference, {}), split)
    return seeds, 100 * values


def csv_text(results: Results) -> str:
  """Writes one line per run, phase, split and column."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator='\n')
  writer.writerow(_FIELDS)
  for split in results.splits:
    masks = results.columns(split)
    for method in results.methods:
      for seed, run in sorted(results.runs.get(method, {}).items()):
        for phase in (START, FINAL):
          won = run.outcomes(phase, split)
          for column, mask in masks.items():
            values = (int(mask.sum()), round(won[mask].mean(), 4))
            writer.writerow([method, seed, phase, split, column, *values])
  return out.getvalue()
