"""Surrogates that bound the weight of a token but never set it to zero."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hgpo_jax.losses import policy


def cispo(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  *,
  clip_low: float = 1.0,
  clip_high: float = 4.0,
) -> policy.Surrogate:
  """REINFORCE with a clipped importance weight.

    l_t = -sg(clip(rho_t, 1 - clip_low, 1 + clip_high)) A_t lp_t

  CISPO, MiniMax-M1 2025, eq. 4 and 5 (https://arxiv.org/abs/2506.13585), which
  bounds the weight only from above (clip_low=1) and does not say where; 4 is
  ours.

  Args:
    log_probs: as in `policy.clipped_surrogate`.
    old_log_probs: as in `policy.clipped_surrogate`.
    advantages: as in `policy.clipped_surrogate`.
    mask: as in `policy.clipped_surrogate`.
    clip_low: how far the weight may be below 1.
    clip_high: how far the weight may be above 1.
  """
  policy.assert_shapes(log_probs, old_log_probs, advantages, mask)
  ratio = jnp.exp(policy.log_ratios(log_probs, old_log_probs, mask))
  weight = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
  spoken = jnp.where(mask.astype(bool), log_probs, 0).astype(jnp.float32)
  advantages = policy.per_token(advantages, mask)
  return policy.Surrogate(
    -jax.lax.stop_gradient(weight) * advantages * spoken,
    (weight != ratio).astype(jnp.float32),
    jnp.zeros_like(ratio),
  )


def sapo(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  *,
  tau_positive: float = 1.0,
  tau_negative: float = 1.05,
) -> policy.Surrogate:
  """A sigmoid of the ratio in the place of the clip.

    l_t = -A_t (4 / tau) sigmoid(tau (rho_t - 1))

  whose slope is 1 at rho = 1 and fades on both sides. SAPO,
  https://arxiv.org/abs/2511.20347.

  Args:
    log_probs: as in `policy.clipped_surrogate`.
    old_log_probs: as in `policy.clipped_surrogate`.
    advantages: as in `policy.clipped_surrogate`.
    mask: as in `policy.clipped_surrogate`.
    tau_positive: steepness where A is positive; a steeper gate trusts less.
    tau_negative: steepness elsewhere.

  Raises:
    ValueError: a tau is not positive.
  """
  policy.assert_shapes(log_probs, old_log_probs, advantages, mask)
  if min(tau_positive, tau_negative) <= 0:
    raise ValueError(
      f'Got tau_positive={tau_positive}, tau_negative={tau_negative}, expected '
      'both above 0.'
    )
  ratio = jnp.exp(policy.log_ratios(log_probs, old_log_probs, mask))
  advantages = policy.per_token(advantages, mask)
  tau = jnp.where(advantages > 0, tau_positive, tau_negative)
  loss = -advantages * 4 / tau * jax.nn.sigmoid(tau * (ratio - 1))
  never = jnp.zeros_like(ratio)
  return policy.Surrogate(loss, never, never)
