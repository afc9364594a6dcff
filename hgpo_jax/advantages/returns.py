"""Rewards of turns -> discounted returns of turns."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from hgpo_jax.advantages import segments


def discounted_returns(
  rewards: jax.Array,
  traj: jax.Array,
  turn: jax.Array,
  mask: jax.Array,
  *,
  gamma: float,
) -> jax.Array:
  """Sums each turn's later rewards: ret_t = r_t + gamma ret_{t+1}.

  The scan is sequential on purpose. Every step is the same multiply and add,
  so equal rewards give bit-equal returns wherever their rows lie, and
  estimators can tell exactly whether a group has spread. A tree of sums would
  round by position.

  Args:
    rewards: `[N]` float, the environment's reward of each turn; the penalty of
      an invalid reply is not in it (see `penalise`).
    traj, turn, mask: `[N]`, as in `Rows`; rows in any order.
    gamma: discount per turn, in [0, 1].

  Returns: `[N]` float32; 0 on padding.
  """
  order = segments.lexical_order(
    jnp.stack([jnp.where(mask, x, -1) for x in (traj, turn)])
  )
  rewards = jnp.where(mask, rewards, 0).astype(jnp.float32)[order]
  owner = jnp.where(mask, traj, -1)[order]
  goes_on = jnp.append(owner[1:] == owner[:-1], False)

  def step(
    later: jax.Array, row: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    reward, same = row
    total = reward + gamma * jnp.where(same, later, 0)
    return total, total

  zero = jnp.zeros((), jnp.float32)
  _, ordered = lax.scan(step, zero, (rewards, goes_on), reverse=True)
  return jnp.zeros_like(rewards).at[order].set(ordered)


def penalise(
  values: jax.Array, valid: jax.Array, *, penalty: float
) -> jax.Array:
  """Takes `penalty` off the rows whose reply was invalid, and off no other.

  Applied after discounting, so that the penalty does not reach earlier turns;
  in the reference runs 0.1, off both the row's return and its episode score.

  Args:
    values: `[N]` float, in reward units.
    valid: `[N]` bool, whether the reply named an action; True on padding.
    penalty: in reward units, not negative.
  """
  return values - penalty * jnp.logical_not(valid).astype(values.dtype)
