"""How alike the histories are that HGPO's levels join.

A group joins rows that saw the same, though what lies behind them, and so what
they are worth, may differ: the paper's context inconsistency (HGPO,
https://arxiv.org/abs/2602.22817). With the truth at hand it can be measured.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from experiments.lab.statistics import Truths


class Bias(NamedTuple):
  """Of a level's advantage: its return less the mean of the others.

  Attributes:
    steps: that had a group of two or more in at least two replicates.
    rms: root of E[(mean_r x - A)^2], free of noise. If all members had the
      step's own history, it would be 0.
    variance: E[var_r x].
  """

  steps: int
  rms: float
  variance: float


def level_bias(values: np.ndarray, grouped: np.ndarray, truths: Truths) -> Bias:
  """Bias of one level's advantages where it has a group.

  Args:
    values: `[S, R]`, of the level.
    grouped: `[S, R]` bool, the replicates that count.
    truths: of the steps.
  """
  count = grouped.sum(1)
  used = count > 1
  if not used.any():
    return Bias(0, np.nan, np.nan)
  values, grouped, count = values[used], grouped[used], count[used]
  true, error, weight = (x[used] for x in truths)
  mean = np.where(grouped, values, 0).sum(1) / count
  squares = np.where(grouped, np.square(values - mean[:, None]), 0).sum(1)
  variance = squares / (count - 1)
  gap = (mean - true) ** 2 - variance / count - error**2
  share = weight / weight.sum()
  return Bias(int(used.sum()), root(share @ gap), float(share @ variance))


class Gap(NamedTuple):
  """True values of rows that share a context with a step.

  Attributes:
    members: such rows.
    rms: root of E[(V(h') - V(h))^2], free of noise.
    mean: E[V(h') - V(h)].
  """

  members: int
  rms: float
  mean: float


def value_gap(cell: dict[str, np.ndarray], level: int) -> Gap:
  """How far values differ between a step and rows that share `level` more.

  Args:
    cell: see `cases.study`; members were drawn from the state's group.
    level: k, earlier observations that must be equal too.
  """
  shared = cell['member_depth'] >= level  # [S, M]
  if not shared.any():
    return Gap(0, np.nan, np.nan)
  weight = cell['weight'][:, None] * shared
  share = weight / weight.sum()
  apart = cell['member_value'] - cell['value'][:, None]
  noise = cell['member_error'] ** 2 + cell['value_error'][:, None] ** 2
  return Gap(
    int(shared.sum()),
    root((share * (apart**2 - noise)).sum()),
    float((share * apart).sum()),
  )


def root(square: float) -> float:
  """Its root; 0 where noise took more than there was."""
  return float(np.sqrt(max(square, 0)))
