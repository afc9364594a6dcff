"""Surrogates whose ratio depends on all tokens of a reply, or on earlier ones.

GSPO and GMPO average log-ratios over the tokens of a row, so that a reply is
kept or clipped as one; KPO filters them along the row. Meant for
aggregation='seq-mean-token-mean'.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hgpo_jax.losses import policy

_Map = tuple[jax.Array, jax.Array]  # a, b of x -> a x + b


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
    log_probs: as in `policy.clipped_surrogate`.
    old_log_probs: as in `policy.clipped_surrogate`.
    advantages: as in `policy.clipped_surrogate`.
    mask: as in `policy.clipped_surrogate`.
    clip_low: how far s may move down; small, as it is a mean.
    clip_high: how far s may move up.
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
    log_probs: as in `policy.clipped_surrogate`.
    old_log_probs: as in `policy.clipped_surrogate`.
    advantages: as in `policy.clipped_surrogate`.
    mask: as in `policy.clipped_surrogate`.
    clip_low: bound of a token's log-ratio downwards, in nats.
    clip_high: bound upwards, in nats.

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


def kpo(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  *,
  q: float = 1e-6,
  clip_low: float = 3e-4,
  clip_high: float = 4e-4,
) -> policy.Surrogate:
  """Clips a filtered ratio, which noise in single tokens moves little.

    rho_t = exp(lp_t - sg(lp_t) + x_t),  x = filtered(sg(lp - old))

  KPO, https://arxiv.org/abs/2602.10609.

  Args:
    log_probs: as in `policy.clipped_surrogate`.
    old_log_probs: as in `policy.clipped_surrogate`.
    advantages: as in `policy.clipped_surrogate`.
    mask: as in `policy.clipped_surrogate`.
    q: variance of the true log-ratio's steps over that of the noise. For small
      q the gain is about sqrt(q) tanh(t sqrt(q)): with the paper's 1e-6 a
      constant log-ratio of 1 is seen as 0.12 after 512 tokens, so in short
      replies rho stays next to 1. Raise q to let more of the ratio through.
    clip_low: how far the filtered ratio may move down.
    clip_high: how far it may move up.
  """
  policy.assert_shapes(log_probs, old_log_probs, advantages, mask)
  log_ratio = policy.log_ratios(log_probs, old_log_probs, mask)
  estimate = filtered(lax.stop_gradient(log_ratio), mask, q=q)
  return policy.clip_between(
    policy.straight_through_ratio(log_probs, estimate, mask),
    policy.per_token(advantages, mask),
    1 - clip_low,
    1 + clip_high,
  )


def filtered(values: jax.Array, mask: jax.Array, *, q: float) -> jax.Array:
  """Kalman estimate of a random walk, seen through noise, token by token.

    x_t = (1 - K_t) x_{t-1} + K_t z_t,  x_0 = 0

  Args:
    values: `[N, R]` z, 0 on padding.
    mask: `[N, R]`; t counts the real tokens of a row, padding is passed over.
    q: as in `kpo`; static.

  Returns: `[N, R]` x; on padding what it was before.
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([values, mask])
  real = mask.astype(bool)
  gains = jnp.asarray(kalman_gains(values.shape[1], q=q))
  place = jnp.cumsum(real, axis=1) - 1  # [N, R], t - 1
  gain = jnp.where(real, gains[jnp.maximum(place, 0)], 0)

  def then(first: _Map, second: _Map) -> _Map:
    (a, b), (c, d) = first, second
    return a * c, c * b + d

  _, estimate = lax.associative_scan(then, (1 - gain, gain * values), axis=1)
  return estimate


def kalman_gains(length: int, *, q: float) -> np.ndarray:
  """Gains of a unit-noise filter that starts without variance; no data enters.

    K_t = (K_{t-1} + q) / (K_{t-1} + q + 1),  K_0 = 0

  Returns: `[length]` float32, K_1 first, within [1e-6, 1 - 1e-6].

  Raises:
    ValueError: q is negative.
  """
  if q < 0:
    raise ValueError(f'Got q={q}, expected a variance ratio of at least 0.')
  gains, gain = np.zeros(length), 0.0
  for t in range(length):
    gain = (gain + q) / (gain + q + 1)
    gains[t] = gain
  return np.clip(gains, 1e-6, 1 - 1e-6).astype(np.float32)


def _row_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Means `[N, 1]` over the tokens of each row, of values 0 on padding."""
  lengths = mask.astype(jnp.float32).sum(axis=1, keepdims=True)
  return values.sum(axis=1, keepdims=True) / jnp.maximum(lengths, 1)
