"""Estimates of KL(policy || reference) from the policy's own tokens.

All take `[N, R]` log-probs and return `[N, R]` float32, with
d = reference_log_probs - log_probs, bounded to +-20. See J. Schulman,
"Approximating KL divergence" (http://joschu.net/blog/kl-approx.html). The
reference is a constant; as a loss, only the dependence of the estimate on
`log_probs` is differentiated, not that of the sampling.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

_MAX_LOG_RATIO = 20.0
_MAX_K3 = 10.0  # nats


def k1(log_probs: jax.Array, reference_log_probs: jax.Array) -> jax.Array:
  """-d: unbiased, high variance, of either sign; to log, not to train on.

  Its gradient is that of a mean log-prob, zero in expectation.
  """
  return -_log_ratio(log_probs, reference_log_probs)


def k2(log_probs: jax.Array, reference_log_probs: jax.Array) -> jax.Array:
  """d^2 / 2: biased where the policies are far apart, low variance."""
  return 0.5 * _log_ratio(log_probs, reference_log_probs) ** 2


def k3(log_probs: jax.Array, reference_log_probs: jax.Array) -> jax.Array:
  """exp(d) - d - 1: unbiased, never negative; at most 10 per token."""
  d = _log_ratio(log_probs, reference_log_probs)
  # expm1 keeps the digits that exp(d) - 1 would lose near 0, the usual case.
  return jnp.clip(jnp.expm1(d) - d, -_MAX_K3, _MAX_K3)


ESTIMATORS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
  'k1': k1,
  'k2': k2,
  'k3': k3,
}


def _log_ratio(log_probs: jax.Array, reference: jax.Array) -> jax.Array:
  chex.assert_rank(log_probs, 2)
  chex.assert_equal_shape([log_probs, reference])
  d = jax.lax.stop_gradient(reference) - log_probs
  return jnp.clip(d.astype(jnp.float32), -_MAX_LOG_RATIO, _MAX_LOG_RATIO)
