"""Intervals for what was measured on the same games with the same seeds."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from scipy import stats

DRAWS, LEVEL = 4000, 0.95
NO_DIFFERENCE = 'no difference seen'


class Interval(NamedTuple):
  """A mean and the bounds of its 95 % interval, in the values' own units."""

  mean: float
  low: float
  high: float

  @property
  def verdict(self) -> str:
    """What may be said of a difference: its sign, or nothing."""
    if self.low <= 0 <= self.high:
      return NO_DIFFERENCE
    return 'higher' if self.mean > 0 else 'lower'


def interval(values: np.ndarray, draws: int = DRAWS, seed: int = 0) -> Interval:
  """Bootstraps the mean of a seeds x games table over both at once.

    mean* = sum_sg u_s v_g values_sg,   with n = S - 1 (1 for a single seed),
    n u ~ multinomial(n, 1/S ...), v likewise from the G games

  Seeds and games are redrawn independently of each other, so that a game that
  was easy for every seed counts as one game: the pigeonhole bootstrap, Owen
  2007 (https://doi.org/10.1214/07-AOAS122), too wide where seeds do not differ.
  One fewer is drawn than there are, which makes the variance of a mean of few
  seeds right: drawing all 3 of 3 would show two thirds of it (Rao & Wu 1988,
  https://doi.org/10.1080/01621459.1988.10478591). Yet no bound lies far beyond
  what the best and the worst seed show, so that a few seeds that differ much
  are trusted too much. With 3 seeds, 512 games and differences whose standard
  deviation between seeds is 0, 3.5, 5 and 7 points, the truth was covered in
  100, 98, 95 and 92 % of 1,000 simulated comparisons. One seed says nothing of
  others: the interval is then over games alone.

  Args:
    values: `[S, G]`; for a paired difference, the difference of two tables.
    draws: of the bootstrap.
    seed: of them; tables of one shape share their draws.
  """
  seeds, games = _shares(*values.shape, draws, seed)
  means = np.einsum('ds,sg,dg->d', seeds, values, games, optimize=True)
  tail = 100 * (1 - LEVEL) / 2
  low, high = np.percentile(means, [tail, 100 - tail])
  return Interval(float(values.mean()), float(low), float(high))


@functools.lru_cache(maxsize=32)
def _shares(
  num_seeds: int, num_games: int, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """How often each seed `[D, S]` and game `[D, G]` is drawn; rows sum to 1."""
  rng = np.random.default_rng(seed)

  def shares(n: int) -> np.ndarray:
    drawn = max(n - 1, 1)
    return rng.multinomial(drawn, np.full(n, 1 / n), draws) / drawn

  return shares(num_seeds), shares(num_games)


def smooth(values: np.ndarray, width: int) -> np.ndarray:
  """Means of `width` neighbours: `[..., T]` -> `[..., T - width + 1]`."""
  sums = np.cumsum(np.insert(values, 0, 0.0, axis=-1), axis=-1)
  return (sums[..., width:] - sums[..., :-width]) / width


def band(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean over seeds, and half the width of its pointwise 95 % interval.

  Student's, with S - 1 degrees of freedom; 0 for a single seed.

  Args:
    curves: `[S, T]`.

  Returns: two `[T]`.
  """
  seeds = len(curves)
  mean = curves.mean(0)
  if seeds == 1:
    return mean, np.zeros_like(mean)
  t = stats.t.ppf((1 + LEVEL) / 2, seeds - 1)
  return mean, t * curves.std(0, ddof=1) / seeds**0.5
