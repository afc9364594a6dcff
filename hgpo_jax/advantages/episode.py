"""Episode-level estimators: one estimate per trajectory, on all its rows."""

from __future__ import annotations

import dataclasses
from typing import Literal

import chex
import jax
import jax.numpy as jnp

from hgpo_jax.advantages import grouping, segments
from hgpo_jax.advantages.rows import Rows, assert_shapes, require

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

  GRPO, Shao et al. 2024, sec. 4.1 (https://arxiv.org/abs/2402.03300).

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
  assert_shapes(rows)
  moments = task_moments(rows.episode_return, rows, count)
  advantages = segments.relative(moments, normalisation, std, eps)
  return _settle_singletons(advantages, rows, moments.count, singleton)


def dr_grpo(
  rows: Rows,
  *,
  count: Count = 'trajectories',
  singleton: Singleton = 'zero',
) -> jax.Array:
  """Compares each episode's return with the mean of its task.

    A = R - mean_g R

  Dr. GRPO, Liu et al. 2025, sec. 3.2 (https://arxiv.org/abs/2503.20783). It
  goes with the loss aggregation 'seq-mean-token-sum-norm'.

  Args:
    rows: the batch.
    count: as in `grpo`.
    singleton: as in `grpo`.

  Returns: `[N]` float32, with zeros as in `grpo`.
  """
  assert_shapes(rows)
  return grpo(rows, normalisation='mean', count=count, singleton=singleton)


def dr_mas(
  rows: Rows,
  *,
  normalisation: segments.Normalisation = 'mean_std',
  std: segments.Std = 'sample',
  count: Count = 'rows',
  singleton: Singleton = 'zero',
  eps: float = 1e-6,
) -> jax.Array:
  """Standardises each episode's return among the turns of one agent.

    A = (R - mean_{g,agent} R) / (std_{g,agent} R + eps)

  Dr. MAS (https://arxiv.org/abs/2602.08847): `grpo` over (task, agent), since
  agents that act in different episodes, or differently often, see different
  distributions of returns.

  Args:
    rows: the batch, with `agent`.
    normalisation: as in `grpo`.
    std: as in `grpo`.
    singleton: as in `grpo`.
    eps: as in `grpo`.
    count: 'rows' as released; 'trajectories' counts an episode once for every
      agent that acted in it.

  Returns: `[N]` float32, with zeros as in `grpo`.

  Raises:
    ValueError: the rows have no `agent`.
  """
  assert_shapes(rows)
  agent = require(rows, 'agent')
  of_agent = dataclasses.replace(
    rows,
    task=joined(rows.mask, rows.task, agent),
    traj=joined(rows.mask, rows.traj, agent),
  )
  return grpo(
    of_agent,
    normalisation=normalisation,
    std=std,
    count=count,
    singleton=singleton,
    eps=eps,
  )


def rloo(
  rows: Rows,
  *,
  count: Count = 'trajectories',
  singleton: Singleton = 'zero',
) -> jax.Array:
  """Compares each episode's return with the mean of the others.

    A = R - mean_{others} R = n / (n - 1) (R - mean_g R)

  Ahmadian et al. 2024 (https://arxiv.org/abs/2402.14740). The second form is
  computed; a row that an invalid reply lowered below its episode's counted one
  is lowered by n / (n - 1) of that, as in the reference agent runs.

  Args:
    rows: the batch.
    count: 'trajectories' leaves out the whole episode. 'rows', for parity with
      the reference agent runs, leaves out one row of it, so that the rest of
      the episode stays in its own baseline.
    singleton: as in `grpo`.

  Returns: `[N]` float32, with zeros as in `grpo`.
  """
  assert_shapes(rows)
  moments = task_moments(rows.episode_return, rows, count)
  factor = moments.count / jnp.maximum(moments.count - 1, 1)
  advantages = jnp.where(moments.spread, factor * moments.centred, 0)
  return _settle_singletons(advantages, rows, moments.count, singleton)


def task_ids(rows: Rows) -> jax.Array:
  """The group `[N]` int32 of each row, -1 on padding."""
  assert_shapes(rows)
  return jnp.where(rows.mask, rows.task, -1)


def joined(mask: jax.Array, *fields: jax.Array) -> jax.Array:
  """Ids `[N]` that rows with equal fields share, -1 on padding."""
  chex.assert_shape([mask, *fields], (mask.size,))
  columns = jnp.stack([jnp.where(mask, field, -1) for field in fields])
  return segments.prefix_ids(columns)[-1]


def counted_rows(rows: Rows, count: Count) -> jax.Array:
  """Which rows `[N]` bool make the statistics; see `grpo`.

  Raises:
    ValueError: the count has another name.
  """
  assert_shapes(rows)
  if count == 'rows':
    return rows.mask
  if count == 'trajectories':
    return grouping.first_of_trajectory(rows.traj, rows.turn, rows.mask)
  raise ValueError(f"Got count={count!r}, expected 'rows' or 'trajectories'.")


def task_moments(
  values: jax.Array, rows: Rows, count: Count
) -> segments.Moments:
  """Moments of `values [N]` within each task."""
  assert_shapes(rows)
  chex.assert_equal_shape([values, rows.mask])
  counted = counted_rows(rows, count)
  return segments.group_moments(values, task_ids(rows), counted)


def _settle_singletons(
  advantages: jax.Array, rows: Rows, members: jax.Array, singleton: Singleton
) -> jax.Array:
  if singleton == 'zero':
    return advantages
  if singleton == 'raw':
    alone = rows.mask & (members == 1)
    return jnp.where(alone, rows.episode_return, advantages)
  raise ValueError(f"Got singleton={singleton!r}, expected 'zero' or 'raw'.")
