"""Episode-level estimators: one judgement per trajectory, on all its rows."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from hgpo_jax.advantages import grouping, segments
from hgpo_jax.advantages.rows import Rows

Count = Literal['rows', 'trajectories']
Singleton = Literal['zero', 'raw']


def grpo(
  rows: Rows,
  *,
  normalisation: segments.Normalisation = 'mean_std',
  std: segments.Std = 'sample',
  count: Count = 'rows',
  singleton: Singleton = 'zero',
  eps: float = 1e-6,
) -> jax.Array:
  """Standardises each episode's return within its task.

    A = (R - mean_g R) / (std_g R + eps)

  GRPO, Shao et al. 2024, sec. 4.1 (https://arxiv.org/abs/2402.03300); with
  normalisation='mean' the advantage of Dr. GRPO
  (https://arxiv.org/abs/2503.20783).

  Args:
    rows: the batch.
    normalisation: 'mean_std' as above, 'mean' without the denominator.
    std: 'sample' (n - 1, as in the public trainers) or 'population' (n).
    count: 'rows' weighs an episode by its length, as the reference agent runs
      did; 'trajectories' counts it once, by its first row.
    singleton: what a group of one gets: 'zero', or 'raw' for its own return,
      as the public trainers have it.
    eps: floor of the spread, in reward units.

  Returns: `[N]` float32; exactly 0 on padding and in a group of several whose
    counted returns are all equal.
  """
  moments = _task_moments(rows, count)
  advantages = segments.relative(moments, normalisation, std, eps)
  return _settle_singletons(advantages, rows, moments.count, singleton)


def rloo(
  rows: Rows,
  *,
  count: Count = 'trajectories',
  singleton: Singleton = 'zero',
) -> jax.Array:
  """Compares each episode's return with the mean of the others.

    A = R - mean_{others} R = n / (n - 1) (R - mean_g R)

  Ahmadian et al. 2024 (https://arxiv.org/abs/2402.14740).

  Args:
    rows: the batch.
    count: 'trajectories' leaves out the whole episode. 'rows', for parity with
      the reference agent runs, leaves out one row of it, so that the rest of
      the episode stays in its own baseline.
    singleton: as in `grpo`.

  Returns: `[N]` float32, with zeros as in `grpo`.
  """
  moments = _task_moments(rows, count)
  factor = moments.count / jnp.maximum(moments.count - 1, 1)
  advantages = jnp.where(moments.spread, factor * moments.centred, 0)
  return _settle_singletons(advantages, rows, moments.count, singleton)


def _task_moments(rows: Rows, count: Count) -> segments.Moments:
  if count == 'rows':
    counted = rows.mask
  elif count == 'trajectories':
    counted = grouping.first_of_trajectory(rows.traj, rows.turn, rows.mask)
  else:
    raise ValueError(f"Got count={count!r}, expected 'rows' or 'trajectories'.")
  task = jnp.where(rows.mask, rows.task, -1)
  return segments.group_moments(rows.episode_return, task, counted)


def _settle_singletons(
  advantages: jax.Array, rows: Rows, members: jax.Array, singleton: Singleton
) -> jax.Array:
  if singleton == 'zero':
    return advantages
  if singleton == 'raw':
    alone = rows.mask & (members == 1)
    return jnp.where(alone, rows.episode_return, advantages)
  raise ValueError(f"Got singleton={singleton!r}, expected 'zero' or 'raw'.")
