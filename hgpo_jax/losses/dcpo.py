"""DCPO: clip bounds that widen for rare tokens; advantages with a memory."""

from __future__ import annotations

from typing import Literal

import chex
import jax
import jax.numpy as jnp
from flax import struct

from hgpo_jax.losses import policy


def dcpo(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  *,
  clip_low: float = 0.2,
  clip_high: float = 0.28,
  dual_clip: float = 10.0,
) -> policy.Surrogate:
  """The clipped surrogate between `bounds`, which depend on the token.

  DCPO, https://arxiv.org/abs/2509.02333. The paper adds up the token means of
  all replies: aggregation='seq-mean-token-mean', but for a constant factor.

  Args:
    log_probs: as in `policy.clipped_surrogate`.
    old_log_probs: as in `policy.clipped_surrogate`.
    advantages: as in `policy.clipped_surrogate`.
    mask: as in `policy.clipped_surrogate`.
    clip_low: see `bounds`.
    clip_high: see `bounds`.
    dual_clip: of negative advantages, and the highest bound.
  """
  policy.assert_shapes(log_probs, old_log_probs, advantages, mask)
  ratio = jnp.exp(policy.log_ratios(log_probs, old_log_probs, mask))
  old = jnp.where(mask.astype(bool), old_log_probs, 0)
  low, high = bounds(
    old, clip_low=clip_low, clip_high=clip_high, highest=dual_clip
  )
  return policy.clip_between(
    ratio, policy.per_token(advantages, mask), low, high, dual_clip=dual_clip
  )


def bounds(
  old_log_probs: jax.Array,
  *,
  clip_low: float,
  clip_high: float,
  highest: float,
) -> tuple[jax.Array, jax.Array]:
  """How far each token's ratio may move, by its old probability q.

    low = 1/2 + 1/2 sqrt(max(1 - 4 clip_low / q, 0)),
    high = min(1/2 + 1/2 sqrt(1 + 4 clip_high / q), max(highest, 10))

  Args:
    old_log_probs: any shape; constants.
    clip_low: bound of q (rho - 1) rho downwards.
    clip_high: bound upwards.
    highest: of `high`, if it is above 10.

  Returns: low in [1/2, 1] and high, of that shape.
  """
  # In logs, as 1 / q of an impossible token would overflow.
  inverse = jnp.exp(jnp.minimum(-jax.lax.stop_gradient(old_log_probs), 80.0))
  low = 0.5 + 0.5 * jnp.sqrt(jnp.maximum(1 - 4 * clip_low * inverse, 0))
  high = 0.5 + 0.5 * jnp.sqrt(1 + 4 * clip_high * inverse)
  return low, jnp.minimum(high, max(highest, 10.0))


@struct.dataclass
class Prompts:
  """What is remembered of the rewards of P prompts.

  Attributes:
    visits: `[P]` int32, groups played so far.
    mean: `[P]` float32, mean reward over them.
    variance: `[P]` float32.
  """

  visits: jax.Array
  mean: jax.Array
  variance: jax.Array


def no_prompts(count: int) -> Prompts:
  """Of `count` prompts, none played yet."""
  zeros = jnp.zeros(count, jnp.float32)
  return Prompts(jnp.zeros(count, jnp.int32), zeros, zeros)


def smooth_advantages(
  prompts: Prompts,
  index: jax.Array,
  rewards: jax.Array,
  *,
  std: Literal['sample', 'population'] = 'sample',
) -> tuple[jax.Array, Prompts]:
  """Judges rewards by their group, and by all groups of the prompt so far.

    S_1 = A_tot / i + (1 - 1/i) A_new,  S_2 = A_new / i + (1 - 1/i) A_tot,
    A = the smaller of the two,  A_. = (R - mean_.) / std_., at visit i

  DCPO, https://arxiv.org/abs/2509.02333. The remembered variance is that of
  all rewards together where std='population'; the released code joins sample
  variances by the same formula, which is then not exact.

  Args:
    prompts: the memory before these groups.
    index: `[G]` int32, the prompt of each group; no prompt twice.
    rewards: `[G, n]`, n the same in every visit.
    std: of a group, over n - 1 or n.

  Returns: advantages `[G, n]`, and the memory with these groups in it. A group
    without spread still teaches, unless the prompt never showed any.
  """
  chex.assert_rank(rewards, 2)
  chex.assert_shape(index, rewards.shape[:1])
  visit = prompts.visits[index] + 1  # [G]
  share = (1 / visit)[:, None].astype(jnp.float32)
  mean, variance = _moments(rewards.astype(jnp.float32), std)
  total_mean, total_variance = _joined(
    prompts.mean[index], prompts.variance[index], mean, variance, visit
  )
  new = _standardised(rewards, mean, variance)
  total = _standardised(rewards, total_mean, total_variance)
  first = share * total + (1 - share) * new
  second = share * new + (1 - share) * total
  advantages = jnp.where(jnp.abs(first) < jnp.abs(second), first, second)
  return advantages, Prompts(
    visits=prompts.visits.at[index].set(visit),
    mean=prompts.mean.at[index].set(total_mean),
    variance=prompts.variance.at[index].set(total_variance),
  )


def _moments(rewards: jax.Array, std: str) -> tuple[jax.Array, jax.Array]:
  """Mean and variance `[G]`; exact for equal rewards, by a shift."""
  if std not in ('sample', 'population'):
    raise ValueError(f"Got std={std!r}, expected 'sample' or 'population'.")
  count = rewards.shape[1] - (std == 'sample')
  shifted = rewards - rewards[:, :1]
  mean = shifted.mean(axis=1)
  squares = jnp.sum((shifted - mean[:, None]) ** 2, axis=1)
  return rewards[:, 0] + mean, squares / max(count, 1)


def _joined(
  mean: jax.Array,
  variance: jax.Array,
  new_mean: jax.Array,
  new_variance: jax.Array,
  visit: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Moments of `visit` groups of one size, the new one among them."""
  step = new_mean - mean
  old = (visit - 1) / visit  # their share
  spread = variance * old + new_variance / visit + old / visit * step**2
  return mean + step / visit, spread


def _standardised(
  rewards: jax.Array, mean: jax.Array, variance: jax.Array
) -> jax.Array:
  spread = (variance > 0)[:, None]
  scale = jnp.where(spread, jnp.sqrt(variance)[:, None], 1)
  return jnp.where(spread, (rewards - mean[:, None]) / scale, 0)
