"""Surrogates whose ratio belongs to the whole reply, not to one token.

Both average log-ratios over the tokens of a row, so that a reply is kept or
clipped as one. Meant for aggregation='seq-mean-token-mean'.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hgpo_jax.losses import policy


def gspo(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  *,
  clip_low: float = 3e-4,
  clip_high: float = 4e-4,
) -> policy.Surrogate:
  """Clips the length-normalised likelihood ratio of the reply.

    s = exp(1/|y| sum_t (lp_t - old_t)),
    rho_t = sg(s) exp(lp_t - sg(lp_t)),
    l_t = max(-A_t rho_t, -A_t clip(rho_t, 1 - clip_low, 1 + clip_high))

  GSPO-token, Zheng et al. 2025, eq. 13 and 14
  (https://arxiv.org/abs/2507.18071). Where A is one number per row, the token
  mean of a row is GSPO's own loss (eq. 5), in value and in gradient.

  Args:
    log_probs, old_log_probs, advantages, mask: as in
      `policy.clipped_surrogate`.
    clip_low, clip_high: how far s may move; small, as it is a mean.
  """
  policy.assert_shapes(log_probs, old_log_probs, advantages, mask)
  log_ratio = policy.log_ratios(log_probs, old_log_probs, mask)
  log_s = jnp.broadcast_to(_row_mean(log_ratio, mask), log_ratio.shape)
  return policy.clip_between(
    policy.straight_through_ratio(log_probs, log_s, mask),
    policy.per_token(advantages, mask),
    1 - clip_low,
    1 + clip_high,
  )


def gmpo(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  *,
  clip_low: float = 0.4,
  clip_high: float = 0.4,
) -> policy.Surrogate:
  """Geometric mean of token ratios, each clipped on the side A pushes to.

    d_t = sgn(A_t) min(sgn(A_t) d_t, sgn(A_t) clip(d_t, -clip_low, clip_high)),
    l = -mean_t(A_t) exp(1/|y| sum_t d_t),  d_t = lp_t - old_t at first

  GMPO, Zhao et al. 2025, eq. 4 (https://arxiv.org/abs/2507.20673).

  Args:
    log_probs, old_log_probs, advantages, mask: as in
      `policy.clipped_surrogate`.
    clip_low, clip_high: bounds of a token's log-ratio, in nats.

  Returns: the row's loss at each of its tokens; 0 on padding.
  """
  policy.assert_shapes(log_probs, old_log_probs, advantages, mask)
  log_ratio = policy.log_ratios(log_probs, old_log_probs, mask)
  advantages = policy.per_token(advantages, mask)
  held = jnp.clip(log_ratio, -clip_low, clip_high)
  sign = jnp.sign(advantages)
  kept = sign * jnp.minimum(sign * log_ratio, sign * held)
  loss = -_row_mean(advantages, mask) * jnp.exp(_row_mean(kept, mask))
  clipped = sign * held < sign * log_ratio
  return policy.Surrogate(
    jnp.where(mask.astype(bool), loss, 0),
    clipped.astype(jnp.float32),
    jnp.zeros_like(log_ratio),
  )


def _row_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Means `[N, 1]` over the tokens of each row, of values 0 on padding."""
  lengths = mask.astype(jnp.float32).sum(axis=1, keepdims=True)
  return values.sum(axis=1, keepdims=True) / jnp.maximum(lengths, 1)
