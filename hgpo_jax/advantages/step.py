"""Step-level estimators: a turn is judged among turns from the same state."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from hgpo_jax.advantages import episode, grouping, segments
from hgpo_jax.advantages.rows import Rows

Weighting = Literal['paper', 'released']

# Added to the level k = 0..K (k earlier observations) before the power alpha.
_OFFSET: dict[str, int] = {'paper': 1, 'released': 2}


def gigpo(
  rows: Rows,
  *,
  weight: float = 1.0,
  normalisation: segments.Normalisation = 'mean_std',
  count: episode.Count = 'rows',
  eps: float = 1e-6,
) -> jax.Array:
  """Adds to the episode's advantage that of the turn among equal states.

    A = A_E + weight A_S

  A_E compares episode returns within the task, A_S discounted returns within
  the rows of the task that saw the same observation; both with the sample
  standard deviation if at all. GiGPO, Feng et al. 2025
  (https://arxiv.org/abs/2505.10978).

  Args:
    rows: the batch.
    weight: of the step term.
    normalisation: 'mean' or 'mean_std', of both terms.
    count: who makes the mean of A_E; see `episode.grpo`.
    eps: floor of the spread, in reward units.

  Returns: `[N]` float32; exactly 0 on padding, and each term exactly 0 in a
    group without spread.
  """
  of_episode = episode.grpo(
    rows, normalisation=normalisation, count=count, eps=eps
  )
  (states,) = _levels(rows, depth=0)
  moments = segments.group_moments(rows.returns, states)
  of_step = segments.relative(moments, normalisation, 'sample', eps)
  return of_episode + weight * of_step


def hgpo(
  rows: Rows,
  *,
  depth: int = 2,
  alpha: float = 1.0,
  weighting: Weighting = 'released',
  normalisation: segments.Normalisation = 'mean_std',
  skip_zero: bool = False,
  base_group: bool = False,
  eps: float = 1e-6,
) -> jax.Array:
  """Averages a turn's advantage over groups of ever longer shared history.

    A = sum_k w_k a_k / sum_k w_k,   a_k = (ret - mean_k) / (std_k + eps)

  Level k = 0..K groups the rows of a task whose last k + 1 observations are
  equal; std is the population's. The sums run over the levels that count for
  the row: those whose group has members with different returns. HGPO
  (https://arxiv.org/abs/2602.22817). There is no episode term by default.

  Args:
    rows: the batch.
    depth: K, earlier observations in the deepest key; static.
    alpha: 0 weighs all levels alike, more trusts the longer histories.
    weighting: 'released', w_k = (k + 2)^alpha, is the default because the
      reported results were made with the released code, which counts the
      levels from 1 and adds 1. 'paper' is (k + 1)^alpha, with the same rule for
      levels that do not count, which is our reading of the paper.
    normalisation: 'mean_std' as above (their ALFWorld), 'mean' without the
      denominator (their WebShop).
    skip_zero: also leaves out a level in which this row's own a_k is 0, as the
      released code does. It makes A jump where a row crosses its group's mean,
      and whether a_k is exactly 0 may hang on rounding.
    base_group: adds a level of weight 1 with the episode's advantage, by
      `episode.grpo` with this normalisation.
    eps: floor of the spread, in reward units.

  Departure from the released code: there, rounding in the mean of equal returns
  leaves noise that the division by eps blows up to advantages of order 1; here
  such a group has no say, exactly.

  Returns: `[N]` float32; exactly 0 on padding and where no level counts.
  Raises:
    ValueError: an option has an unknown name.
  """
  if weighting not in _OFFSET:
    raise ValueError(f'Got weighting={weighting!r}, expected {[*_OFFSET]}.')
  levels = _levels(rows, depth=depth)  # [K+1, N]
  moments = jax.vmap(segments.group_moments, (None, 0))(rows.returns, levels)
  values = segments.relative(moments, normalisation, 'population', eps)
  counts = moments.spread
  weights = (jnp.arange(depth + 1.0) + _OFFSET[weighting]) ** alpha
  if base_group:
    base = episode.grpo(rows, normalisation=normalisation, eps=eps)
    task = jnp.where(rows.mask, rows.task, -1)
    spread = segments.group_moments(rows.episode_return, task).spread
    values = jnp.concatenate([base[None], values])
    counts = jnp.concatenate([spread[None], counts])
    weights = jnp.append(1.0, weights)
  if skip_zero:
    counts &= values != 0
  share = jnp.where(counts, weights[:, None], 0)  # [levels, N]
  total = share.sum(0)
  return (share * values).sum(0) / jnp.where(total > 0, total, 1)


def _levels(rows: Rows, *, depth: int) -> jax.Array:
  """Level ids `[depth + 1, N]` of the batch."""
  return grouping.level_ids(
    rows.task, rows.traj, rows.turn, rows.obs, rows.mask, depth=depth
  )
