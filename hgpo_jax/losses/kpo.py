"""KPO: token ratios smoothed along the reply by a Kalman filter."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hgpo_jax.losses import policy


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

  KPO, https://arxiv.org/abs/2602.10609. Meant for
  aggregation='seq-mean-token-mean'.

  Args:
    log_probs, old_log_probs, advantages, mask: as in
      `policy.clipped_surrogate`.
    q: variance of the true log-ratio's steps over that of the noise. For small
      q the gain is about sqrt(q) tanh(t sqrt(q)): with the paper's 1e-6 a
      constant log-ratio of 1 is seen as 0.12 after 512 tokens, so in short
      replies rho stays next to 1. Raise q to let more of the ratio through.
    clip_low, clip_high: how far the filtered ratio may move.
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
  seen = jnp.cumsum(real, axis=1) - 1  # [N, R], t - 1
  gain = jnp.where(real, gains[jnp.maximum(seen, 0)], 0)

  def then(first: tuple, second: tuple) -> tuple:  # of maps x -> a x + b
    (a, b), (c, d) = first, second
    return a * c, c * b + d

  _, estimate = lax.associative_scan(then, (1 - gain, gain * values), axis=1)
  return estimate


def kalman_gains(length: int, *, q: float) -> np.ndarray:
  """Gains of a unit-noise filter that starts certain; no data enters.

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
