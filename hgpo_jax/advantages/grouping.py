"""State groups: which rows saw the same, and did so with the same history."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hgpo_jax.advantages import segments


def level_ids(
  task: jax.Array,
  traj: jax.Array,
  turn: jax.Array,
  obs: jax.Array,
  mask: jax.Array,
  *,
  depth: int,
) -> jax.Array:
  """Groups rows by their last k + 1 observations, for k = 0..depth.

  Level k joins the rows of one task with equal (o_t, o_{t-1}, ..., o_{t-k}).
  Rows of the same episode count as members when it comes back to a state. One
  lexicographic sort serves all levels, since each level's key is a prefix of
  the next one's. See HGPO (https://arxiv.org/abs/2602.22817), whose released
  code numbers the levels from 1.

  Args:
    task, traj, turn, obs, mask: `[N]`, as in `Rows`; rows in any order.
    depth: K, the number of earlier observations in the deepest key; static.

  Returns: `[K+1, N]` int32, dense in [0, groups) on each level; -1 on padding
    and where t - k < 0, or that earlier turn is not among the rows.
  """
  past = history(traj, turn, obs, mask, depth=depth)  # [K+1, N]
  owner = jnp.where(mask, task, -1)[None].astype(jnp.int32)
  return segments.prefix_ids(jnp.concatenate([owner, past]))[1:]


def history(
  traj: jax.Array,
  turn: jax.Array,
  obs: jax.Array,
  mask: jax.Array,
  *,
  depth: int,
) -> jax.Array:
  """The observations k turns ago, `[K+1, N]` int32; -1 where there is none."""
  size = mask.shape[0]
  order = segments.lexical_order(
    jnp.stack([jnp.where(mask, x, -1) for x in (traj, turn)])
  )
  traj, turn, obs, mask = (x[order] for x in (traj, turn, obs, mask))
  place = jnp.arange(size)
  levels = []
  for k in range(depth + 1):
    earlier = jnp.maximum(place - k, 0)
    found = mask & mask[earlier] & (traj[earlier] == traj)
    found &= turn[earlier] == turn - k  # fails at the start and across a gap
    levels.append(jnp.where(found, obs[earlier], -1))
  ordered = jnp.stack(levels).astype(jnp.int32)
  return jnp.zeros_like(ordered).at[:, order].set(ordered)


def first_of_trajectory(
  traj: jax.Array, turn: jax.Array, mask: jax.Array
) -> jax.Array:
  """Marks one row per episode, that of its earliest turn: `[N]` bool."""
  size = mask.shape[0]
  place = jnp.where(mask, traj, 0)
  last = jnp.iinfo(jnp.int32).max
  earliest = jax.ops.segment_min(jnp.where(mask, turn, last), place, size)
  return mask & (turn == earliest[place])
