"""Which groups, rollouts, tokens and tasks an iteration uses.

Pure functions of NumPy arrays, on the host; state goes in and comes back.

Axes: G groups, E episodes, N turns, R tokens of a reply, P tasks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from hgpo_jax import random_streams
from hgpo_jax.random_streams import Seed


def informative(scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
  """Finds the groups whose episodes do not all have the same score.

  The filter of DAPO, Yu et al. 2025, eq. 11 (https://arxiv.org/abs/2503.14476).

  Args:
    scores: `[E]`, one number per episode.
    groups: `[E]` int in [0, G), each of them at least once.

  Returns: `[G]` bool, exact: no standard deviation is taken.
  """
  count = int(groups.max(initial=-1)) + 1
  top, low = np.full(count, -np.inf), np.full(count, np.inf)
  np.maximum.at(top, groups, scores)
  np.minimum.at(low, groups, scores)
  return top > low


def groups_to_play(kept: int, played: int, *, wanted: int, limit: int) -> int:
  """How many more groups to play, until enough of them are kept.

  As many as are missing, over the share that was kept so far.

  Args:
    kept: groups that passed the filter.
    played: groups so far, those among them.
    wanted: groups to learn from.
    limit: most groups to play; then the learner uses those that there are.

  Returns: 0 when it is enough.
  """
  if kept > played or wanted > limit:
    raise ValueError(
      f'Got kept={kept} of played={played}, wanted={wanted} of limit={limit}; '
      'expected no more than that.'
    )
  missing = wanted - kept
  if missing <= 0:
    return 0
  share = max(kept, 1) / played if played else 1.0
  return min(math.ceil(missing / share), limit - played)


def most_varied(advantages: np.ndarray, count: int) -> np.ndarray:
  """Chooses the rollouts whose advantages vary most, over the whole batch.

  The best are some k smallest and count - k largest, as moving a member away
  from the mean only adds variance; all k are compared in one pass. D3S,
  https://arxiv.org/abs/2509.22115, which does not normalise again afterwards.

  Args:
    advantages: `[E]`.
    count: how many to choose.

  Returns: `[E]` bool, True for `count` of them (or all E).
  """
  size = advantages.size
  if count >= size:
    return np.ones(size, bool)
  if count < 1:
    raise ValueError(f'Got count={count}, expected at least 1 rollout.')
  order = np.argsort(advantages, kind='stable')
  # Centred, so that squares lose no digits; only differences matter.
  x = np.asarray(advantages, np.float64)[order] - np.mean(advantages)
  low = np.arange(count + 1)  # k
  high = size - count + low  # place of the first of the largest
  total, squares = (
    sums[low] + sums[-1] - sums[high]
    for sums in (np.append(0, np.cumsum(y)) for y in (x, x**2))
  )
  best = int(np.argmax(squares - total**2 / count))
  chosen = np.ones(size, bool)
  chosen[order[best : size - count + best]] = False
  return chosen


def weightiest_tokens(
  advantages: np.ndarray, entropy: np.ndarray, mask: np.ndarray, share: float
) -> np.ndarray:
  """Keeps the share of tokens with the largest |A| H, over the whole batch.

  D3S, as in `most_varied`.

  Args:
    advantages: `[N]`, or `[N, R]` if the tokens of a reply differ.
    entropy: `[N, R]` in nats.
    mask: `[N, R]` bool, which tokens are real.
    share: of the real tokens, in (0, 1]; rounded up to a whole number.

  Returns: `[N, R]` bool; of equal tokens the earlier ones are kept.
  """
  if not 0 < share <= 1:
    raise ValueError(f'Got share={share}, expected a number in (0, 1].')
  wide = advantages if advantages.ndim == 2 else advantages[:, None]
  weight = np.where(mask, np.abs(wide) * entropy, -np.inf)
  count = math.ceil(share * np.count_nonzero(mask))
  kept = np.zeros(mask.size, bool)
  kept[np.argsort(-weight, axis=None, kind='stable')[:count]] = True
  return kept.reshape(mask.shape)


def annealed(progress: float, first: float, last: float) -> float:
  """(1 - p) first + p last: how D3S moves its counts over a run."""
  return (1 - progress) * first + progress * last


@dataclasses.dataclass(frozen=True)
class Tracker:
  """A Beta posterior of the success of P tasks.

  Attributes:
    wins: `[P]` float64, pseudo-count of successes.
    losses: `[P]` float64, of failures.
  """

  wins: np.ndarray
  losses: np.ndarray

  def rate(self) -> np.ndarray:
    """Mean success `[P]`, in (0, 1)."""
    return self.wins / (self.wins + self.losses)


def new_tracker(tasks: int, prior: float = 1.0) -> Tracker:
  """Starts with an expected success of 1/2 for every task.

  Args:
    tasks: P.
    prior: pseudo-count of successes and of failures; the larger, the slower
      the mean changes.
  """
  counts = np.full(tasks, prior, np.float64)
  return Tracker(counts, counts)


def observed(
  tracker: Tracker,
  tasks: np.ndarray,
  won: np.ndarray,
  *,
  decay: float = 1.0,
) -> Tracker:
  """Adds episodes' outcomes, after older ones of these tasks have faded.

    wins <- decay wins + sum won,  losses <- decay losses + sum (1 - won)

  Args:
    tracker: before them.
    tasks: `[E]` int in [0, P); a task may occur several times.
    won: `[E]`, 1 or 0, or a score between.
    decay: in (0, 1]; once per call for each task that was played. At a steady
      rate the counts approach episodes / (1 - decay), a moving average.
  """
  faded = np.ones_like(tracker.wins)
  faded[tasks] = decay
  wins, losses = tracker.wins * faded, tracker.losses * faded
  np.add.at(wins, tasks, won)
  np.add.at(losses, tasks, 1 - np.asarray(won, np.float64))
  return Tracker(wins, losses)


def spread_weight(rate: np.ndarray) -> np.ndarray:
  """sqrt(v (1 - v)) + 0.05: tasks won half of the time first, none never.

  Single-stream policy optimisation, https://arxiv.org/abs/2509.13232.
  """
  return np.sqrt(rate * (1 - rate)) + 0.05


def variance_weight(rate: np.ndarray) -> np.ndarray:
  """Returns p (1 - p): the variance of an outcome; 0 where it is certain."""
  return rate * (1 - rate)


WEIGHTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'spread': spread_weight,
  'variance': variance_weight,
}


def drawn(weights: np.ndarray, count: int, seed: Sequence[int]) -> np.ndarray:
  """Draws tasks one after the other, each in proportion to its weight.

  Args:
    weights: `[P]`, not negative; a task of weight 0 is never drawn.
    count: tasks, none of them twice.
    seed: of the draw, one per iteration.

  Returns: `[count]` int, in the order drawn.
  """
  possible = int(np.count_nonzero(weights > 0))
  if count > possible:
    raise ValueError(
      f'Got {count} tasks to draw from {possible} with a weight; expected no '
      'more: play fewer groups, or use weights that are never 0.'
    )
  rng = random_streams.generator(seed, Seed.DRAWN_TASKS)
  return rng.choice(
    weights.size, count, replace=False, p=weights / weights.sum()
  )
