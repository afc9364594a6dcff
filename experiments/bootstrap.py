"""Bootstrap intervals of means, for tables and reports.

`scipy.stats.bootstrap` redraws all n of n along one axis; the comparison
redraws two axes at once and one fewer than there are, and the lab redraws
weights that several statistics share.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

DRAWS = 4000
_BOUNDS = (0.025, 0.975)


class Interval(NamedTuple):
  """A mean and the bounds of its 95 % interval, in the values' own units.

  In an f-string the format is that of each number: `f'{interval:+.1f}'`.
  """

  mean: float
  low: float
  high: float

  @property
  def sign(self) -> int:
    """Of the mean, as far as it is known: 0 where the interval contains 0."""
    return int(self.low > 0) - int(self.high < 0)

  def __format__(self, spec: str) -> str:
    return f'{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]'


def interval(mean: Any, draws: np.ndarray) -> Interval:
  """A mean `[...]` and the middle 95 % of its bootstrapped ones `[D, ...]`."""
  low, high = np.quantile(draws, _BOUNDS, axis=0)
  return Interval(mean, low, high)


def counts(
  rng: np.random.Generator, size: int, drawn: int, draws: int
) -> np.ndarray:
  """How often each of `size` is among `drawn`, with replacement: `[D, size]`.

  See Efron 1979 (https://doi.org/10.1214/aos/1176344552).
  """
  return rng.multinomial(drawn, np.full(size, 1 / size), draws)


def pigeonhole(
  values: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> Interval:
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
  return interval(values.mean(), means)


@functools.lru_cache(maxsize=32)
def _shares(
  num_seeds: int, num_games: int, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """How often each seed `[D, S]` and game `[D, G]` is drawn; rows sum to 1."""
  rng = np.random.default_rng(seed)

  def shares(size: int) -> np.ndarray:
    drawn = max(size - 1, 1)
    return counts(rng, size, drawn, draws) / drawn

  return shares(num_seeds), shares(num_games)
