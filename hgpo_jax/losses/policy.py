"""The clipped surrogate, and the pieces that its relatives share.

Everything is per token, `[N, R]` float32, and 0 on padding, whatever the data
holds there: padding is replaced before any arithmetic.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

# exp(20) is still a small number in float32; larger ratios add nothing.
_MAX_LOG_RATIO = 20.0
# The bound of the public trainers where a ratio is of a whole reply.
_MAX_LOG_RATIO_OF_REPLY = 10.0


class Surrogate(NamedTuple):
  """Per token, all `[N, R]`; `aggregate` turns each into one number.

  Attributes:
    loss: float32, to be minimised.
    clipped: float32, 1 where the clip bound the ratio; its token mean is the
      clip fraction.
    dual_clipped: float32, 1 where the bound of negative advantages was reached.
  """

  loss: jax.Array
  clipped: jax.Array
  dual_clipped: jax.Array


def clipped_surrogate(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  *,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  dual_clip: float | None = 3.0,
) -> Surrogate:
  """Policy-gradient loss that is flat once the policy has moved enough.

    l = max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high)),
    rho = exp(log_probs - old_log_probs);  where A < 0, l = min(l, -A dual_clip)

  PPO, Schulman et al. 2017, eq. 7 (https://arxiv.org/abs/1707.06347), with the
  dual clip of Ye et al. 2020, eq. 5 (https://arxiv.org/abs/1912.09729). DAPO
  (https://arxiv.org/abs/2503.14476) sets clip_high=0.28, dual_clip=10.

  Args:
    log_probs: `[N, R]` of the policy that learns.
    old_log_probs: `[N, R]` of the policy that sampled; taken as constants.
    advantages: `[N]`, or `[N, R]` if the tokens of a row differ; constants too.
    mask: `[N, R]` bool or 0/1, which tokens are real.
    clip_low: how far the ratio may move down.
    clip_high: how far the ratio may move up.
    dual_clip: above 1, bounds the loss of a token that became too likely;
      None leaves it out.

  Raises:
    ValueError: dual_clip is 1 or less, which would cut the loss at ratio 1.
  """
  assert_shapes(log_probs, old_log_probs, advantages, mask)
  ratio = jnp.exp(log_ratios(log_probs, old_log_probs, mask))
  return clip_between(
    ratio,
    per_token(advantages, mask),
    1 - clip_low,
    1 + clip_high,
    dual_clip=dual_clip,
  )


def clip_between(
  ratio: jax.Array,
  advantages: jax.Array,
  low: jax.Array | float,
  high: jax.Array | float,
  *,
  dual_clip: float | None = None,
) -> Surrogate:
  """The clipped loss of any ratio between any bounds; see `clipped_surrogate`.

  Args:
    ratio: `[N, R]`, differentiable.
    advantages: `[N, R]`.
    low: lower bound of the ratio, for all tokens or `[N, R]`.
    high: upper bound.
    dual_clip: as in `clipped_surrogate`.
  """
  chex.assert_rank(ratio, 2)
  chex.assert_equal_shape([ratio, advantages])
  if dual_clip is not None and dual_clip <= 1:
    raise ValueError(f'Got dual_clip={dual_clip}, expected None or above 1.')
  free, held = -advantages * ratio, -advantages * jnp.clip(ratio, low, high)
  loss, clipped = jnp.maximum(free, held), held > free
  dual_clipped = jnp.zeros_like(clipped)
  if dual_clip is not None:
    most = -advantages * dual_clip
    dual_clipped = (advantages < 0) & (loss > most)
    loss = jnp.where(dual_clipped, most, loss)
  return Surrogate(
    loss, clipped.astype(jnp.float32), dual_clipped.astype(jnp.float32)
  )


def assert_shapes(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
) -> None:
  """Asserts the shapes that `clipped_surrogate` states for its arrays.

  Raises:
    AssertionError: an array has another shape.
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([log_probs, old_log_probs, mask])
  chex.assert_rank(advantages, {1, 2})
  chex.assert_shape(advantages, mask.shape[: advantages.ndim])


def log_ratios(
  log_probs: jax.Array, old_log_probs: jax.Array, mask: jax.Array
) -> jax.Array:
  """Bounds log_probs - old_log_probs to +-20; 0 on padding."""
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([log_probs, old_log_probs, mask])
  change = (log_probs - stop_gradient(old_log_probs)).astype(jnp.float32)
  # Chosen before it is bounded, so that a nan on padding has no gradient.
  change = jnp.where(mask.astype(bool), change, 0)
  return jnp.clip(change, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def straight_through_ratio(
  log_probs: jax.Array, log_ratio: jax.Array, mask: jax.Array
) -> jax.Array:
  """A ratio with the value of one quantity and the gradient of each token.

    rho_t = exp(min(lp_t - sg(lp_t) + sg(log_ratio_t), 10))

  Args:
    log_probs: `[N, R]`, differentiable.
    log_ratio: `[N, R]`, the value to take; a constant.
    mask: `[N, R]`.

  Returns: `[N, R]`; d rho_t / d lp_t = rho_t, up to the bound.
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([log_probs, log_ratio, mask])
  log_probs = jnp.where(mask.astype(bool), log_probs, 0).astype(jnp.float32)
  moved = log_probs - stop_gradient(log_probs) + stop_gradient(log_ratio)
  return jnp.exp(jnp.minimum(moved, _MAX_LOG_RATIO_OF_REPLY))


def per_token(advantages: jax.Array, mask: jax.Array) -> jax.Array:
  """Advantages `[N]` or `[N, R]` as constants `[N, R]`; 0 on padding."""
  chex.assert_rank(advantages, {1, 2})
  chex.assert_shape(advantages, mask.shape[: advantages.ndim])
  if advantages.ndim == 1:
    advantages = advantages[:, None]
  real = jnp.where(mask.astype(bool), advantages, 0)
  return stop_gradient(real.astype(jnp.float32))
