"""Rewards of turns -> discounted returns; with values, GAE by turn or token."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax import lax

from hgpo_jax.advantages import segments


def turn_gae(
  rewards: jax.Array,
  values: jax.Array,
  traj: jax.Array,
  turn: jax.Array,
  mask: jax.Array,
  *,
  gamma: float,
  lam: float,
  last_values: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Generalised advantage estimation over the turns of each episode.

    delta_t = r_t + gamma V_{t+1} - V_t,   A_t = delta_t + gamma lam A_{t+1}

  Schulman et al. 2016, eq. 16 (https://arxiv.org/abs/1506.02438), with a turn
  as the step.

  Args:
    rewards: `[N]` float, of each turn.
    values: `[N]` float, the critic's, before the turn.
    traj: `[N]`, as in `Rows`; rows in any order.
    turn: `[N]`, as in `Rows`.
    mask: `[N]`, as in `Rows`.
    gamma: discount per turn, in [0, 1].
    lam: in [0, 1]; 0 trusts the critic, 1 the return.
    last_values: `[N]` float, the value of the state after an episode's last
      turn, read on that turn's row; for episodes that a step limit ended. 0 for
      all if None.

  Returns: advantages and the critic's targets A + V, `[N]` float32 each, not
    normalised; 0 on padding.
  """
  chex.assert_shape([rewards, values, traj, turn, mask], (mask.size,))
  advantages, targets = token_gae(
    rewards[:, None],
    values[:, None],
    traj,
    turn,
    mask[:, None],
    gamma=gamma,
    lam=lam,
    last_values=last_values,
  )
  return advantages[:, 0], targets[:, 0]


def token_gae(
  rewards: jax.Array,
  values: jax.Array,
  traj: jax.Array,
  turn: jax.Array,
  mask: jax.Array,
  *,
  gamma: float,
  lam: float,
  last_values: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """`turn_gae` over the reply tokens of a whole conversation.

  Tokens of observations between two replies are not steps: the last
  token of a reply is followed by the first of the next one.

  Args:
    rewards: `[N, R]` float, of each token; a turn's reward is on its last.
    values: `[N, R]` float, before each token.
    traj: `[N]`, as in `Rows`; rows in any order.
    turn: `[N]`, as in `Rows`.
    mask: `[N, R]` bool, the reply's tokens, anywhere in the row; a row without
      any is padding.
    gamma: discount per token.
    lam: lambda per token.
    last_values: `[N]`, as in `turn_gae`.

  Returns: advantages and targets, `[N, R]` float32; 0 off the mask.
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([rewards, values, mask])
  chex.assert_shape([traj, turn], mask.shape[:1])
  real = mask.any(axis=1)
  order = segments.episode_order(traj, turn, real)
  owner = jnp.where(real, traj, -1)[order]
  ends = jnp.append(owner[1:] != owner[:-1], True)
  rewards, values = (
    jnp.where(mask, x, 0).astype(jnp.float32)[order] for x in (rewards, values)
  )
  mask = mask[order]
  last = jnp.zeros_like(rewards[:, 0])
  if last_values is not None:
    last = jnp.where(ends & real[order], last_values[order], 0)

  def backwards(
    slope: jax.Array, offset: jax.Array, at_end: jax.Array
  ) -> jax.Array:
    """Solves y = offset + slope y_next over all tokens, `[N, R+1]`.

    The additional column stands for what follows the row: the next turn, or
    `at_end [N]` after an episode's last.
    """
    slope = jnp.column_stack([slope, jnp.where(ends, 0.0, 1.0)])
    offset = jnp.column_stack([offset, jnp.where(ends, at_end, 0)])
    return _affine_scan(slope.ravel(), offset.ravel()).reshape(slope.shape)

  # Other tokens (slope 1, offset 0) pass on the next reply token's values.
  following = backwards(jnp.where(mask, 0.0, 1.0), values, last)[:, 1:]
  delta = jnp.where(mask, rewards + gamma * following - values, 0)
  decay = jnp.where(mask, gamma * lam, 1.0)
  advantages = backwards(decay, delta, jnp.zeros_like(last))[:, :-1]
  advantages = jnp.where(mask, advantages, 0)
  back = jnp.zeros_like(order).at[order].set(jnp.arange(order.size))
  return advantages[back], (advantages + values)[back]


def _affine_scan(slope: jax.Array, offset: jax.Array) -> jax.Array:
  """y_t = offset_t + slope_t y_{t+1} from the back, in log2 n parallel steps.

  Args:
    slope: `[n]`, what y_next is multiplied by; y is 0 after the last.
    offset: `[n]`, what is added.
  """

  def compose(
    later: tuple[jax.Array, jax.Array], earlier: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    return earlier[0] * later[0], earlier[1] + earlier[0] * later[1]

  return lax.associative_scan(compose, (slope, offset), reverse=True)[1]


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
    traj: `[N]`, as in `Rows`; rows in any order.
    turn: `[N]`, as in `Rows`.
    mask: `[N]`, as in `Rows`.
    gamma: discount per turn, in [0, 1].

  Returns: `[N]` float32; 0 on padding.
  """
  chex.assert_shape([rewards, traj, turn, mask], (mask.size,))
  order = segments.episode_order(traj, turn, mask)
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
  chex.assert_rank(values, 1)
  chex.assert_equal_shape([values, valid])
  return values - penalty * jnp.logical_not(valid).astype(values.dtype)
