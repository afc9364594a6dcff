"""How far estimates are from the truth, in means over rows of a batch.

S steps with true advantages A_s of standard error e_s and weight w_s; R
independent estimates X_sr of each, by each of P methods. E[.] is the weighted
mean over steps. As truth and estimates are independent, E[(X - A)^2] of the
unknown exact A is that of the measured one less E[e^2].

A level of contexts joins rows with equal observations, whose histories, and so
values, may differ: the context inconsistency of HGPO
(https://arxiv.org/abs/2602.22817), which the truth makes measurable.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from experiments import bootstrap


class Truths(NamedTuple):
  """True advantages `[S]`, their standard errors, and the steps' weights."""

  advantage: np.ndarray
  error: np.ndarray
  weight: np.ndarray


class Scores(NamedTuple):
  """What resamples of the steps say; all `[B, P]`, row 0 is all steps.

  Attributes:
    mse: E[(X - A)^2].
    scaled_mse: min_c E[(c X - A)^2] = E[A^2] - E[X A]^2 / E[X^2].
    scale: that c = E[X A] / E[X^2].
    explained: E[X A]^2 / (E[X^2] E[A^2]), with the sign of E[X A]: 1 minus
      scaled_mse as a share of E[A^2].
  """

  mse: np.ndarray
  scaled_mse: np.ndarray
  scale: np.ndarray
  explained: np.ndarray


def resamples(weight: np.ndarray, count: int, seed: int) -> np.ndarray:
  """Weights `[B, S]` that sum to 1: the steps' own, then bootstrap resamples.

  Steps are of different games, so they are drawn independently.

  Args:
    weight: `[S]`.
    count: B - 1.
    seed: of the drawing.
  """
  size = weight.size
  rng = np.random.default_rng(seed)
  times = bootstrap.counts(rng, size, size, count)
  drawn = weight * np.concatenate([np.ones((1, size)), times])
  return drawn / drawn.sum(1, keepdims=True)


def scores(estimates: np.ndarray, truths: Truths, shares: np.ndarray) -> Scores:
  """Errors of `[P, S, R]` estimates under weights `[B, S]`."""
  true, noise = truths.advantage, truths.error**2
  raw = np.square(estimates - true[:, None]).mean(2) - noise  # [P, S]
  own = shares @ np.square(estimates).mean(2).T  # E[X^2], [B, P]
  cross = shares @ (estimates.mean(2) * true).T  # E[X A]
  power = (shares @ (true**2 - noise))[:, None]  # E[A^2], [B, 1]
  scale = np.divide(cross, own, out=np.zeros_like(cross), where=own > 0)
  gain = scale * cross
  return Scores(
    mse=shares @ raw.T,
    scaled_mse=power - gain,
    scale=scale,
    explained=np.sign(cross) * gain / power,
  )


class Parts(NamedTuple):
  """Bias and variance of c X; each `[P]`.

  Attributes:
    bias: E[c X - A].
    squared_bias: E[(mean_r c X - A)^2], free of the noise of both.
    variance: E[var_r(c X)]; with squared_bias it sums to the mean squared
      error.
  """

  bias: np.ndarray
  squared_bias: np.ndarray
  variance: np.ndarray


def parts(
  estimates: np.ndarray, truths: Truths, share: np.ndarray, scale: np.ndarray
) -> Parts:
  """Splits errors of `[P, S, R]` estimates under one weight `[S]` per step.

  Args:
    estimates: R is at least 2.
    truths: of the steps.
    share: weights that sum to 1.
    scale: c, `[P]`.
  """
  scaled = scale[:, None, None] * estimates
  gap = scaled.mean(2) - truths.advantage  # [P, S]
  variance = scaled.var(2, ddof=1)
  noise = variance / estimates.shape[2] + truths.error**2
  return Parts(
    bias=gap @ share,
    squared_bias=(gap**2 - noise) @ share,
    variance=variance @ share,
  )


def weighted_ranks(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
  """The share of weight below each value, with half of that which equals it.

  With equal weights these are ordinary ranks, ties averaged, up to a constant
  and a factor. Returns: `[S]`.
  """
  distinct, place = np.unique(values, return_inverse=True)
  mass = np.bincount(place, weight, distinct.size)
  return ((np.cumsum(mass) - mass / 2) / mass.sum())[place]


def correlation(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
  """Weighted Pearson correlation; 0 where one of them is constant."""
  share = weight / weight.sum()
  x, y = x - share @ x, y - share @ y
  scale = np.sqrt((share @ x**2) * (share @ y**2))
  return float(share @ (x * y) / scale) if scale > 1e-12 else 0.0


def rank_correlation(estimates: np.ndarray, truths: Truths) -> float:
  """Weighted Spearman correlation of `[S, R]` estimates, mean over r."""
  true = weighted_ranks(truths.advantage, truths.weight)
  return float(
    np.mean(
      [
        correlation(weighted_ranks(x, truths.weight), true, truths.weight)
        for x in estimates.T
      ]
    )
  )


def sign_accuracy(
  estimates: np.ndarray, truths: Truths
) -> tuple[float, float, int]:
  """How often `[S, R]` estimates have the sign of the truth.

  Counted are steps whose advantage is more than two standard errors from 0. An
  estimate of exactly 0 is half right.

  Returns: the share over all these steps; the mean of the shares of the good
    and the bad ones, for which a coin gets 1/2 however many moves are good; the
    number of steps. NaN where there are no such steps.
  """
  clear = np.abs(truths.advantage) > 2 * truths.error
  sign = np.sign(truths.advantage)
  right = (1 + np.sign(estimates) * sign[:, None]).mean(1) / 2  # [S]

  def share(steps: np.ndarray) -> float:
    weight = truths.weight[steps]
    return (
      float(weight @ right[steps] / weight.sum()) if steps.any() else np.nan
    )

  balanced = (share(clear & (sign > 0)) + share(clear & (sign < 0))) / 2
  return share(clear), balanced, int(clear.sum())


# ---- levels of contexts ----


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
