"""Clip-Cov and KL-Cov: hold back the tokens that cost the most entropy.

Entropy falls by the covariance of log-probs and advantages, to which a small
share of tokens contributes nearly all. Cui et al. 2025
(https://arxiv.org/abs/2505.22617). The tokens are chosen over the whole batch,
so that micro-batches do not add up: what is given here is all of it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hgpo_jax.losses import policy


def token_covariances(
  log_probs: jax.Array, advantages: jax.Array, mask: jax.Array
) -> jax.Array:
  """What each token adds to the covariance: eq. 10 of the paper.

    c_t = (lp_t - mean lp) (A_t - mean A)

  Args:
    log_probs: `[N, R]`; a constant.
    advantages: `[N]` or `[N, R]`.
    mask: `[N, R]`, over which the means are taken.

  Returns: `[N, R]`; 0 on padding.
  """
  policy.assert_shapes(log_probs, log_probs, advantages, mask)
  count = jnp.maximum(mask.astype(jnp.float32).sum(), 1)

  def centred(values: jax.Array) -> jax.Array:
    values = policy.per_token(values, mask)
    return jnp.where(mask.astype(bool), values - values.sum() / count, 0)

  return centred(log_probs) * centred(advantages)


def kl_cov(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  *,
  share: float = 0.002,
  coef: float = 1.0,
) -> policy.Surrogate:
  """The unclipped loss, with a KL on the tokens of the largest covariance.

    l = -A rho + coef |log rho| [c among the `share` largest]

  Args:
    log_probs: as in `policy.clipped_surrogate`.
    old_log_probs: as in `policy.clipped_surrogate`.
    advantages: as in `policy.clipped_surrogate`.
    mask: as in `policy.clipped_surrogate`.
    share: of all tokens, at least one.
    coef: weight of the KL.

  Returns: the loss; `clipped` marks the tokens that were held back.
  """
  policy.assert_shapes(log_probs, old_log_probs, advantages, mask)
  log_ratio = policy.log_ratios(log_probs, old_log_probs, mask)
  covariances = token_covariances(log_probs, advantages, mask)
  held = _largest(covariances, mask.astype(bool), _count(mask, share))
  free = -policy.per_token(advantages, mask) * jnp.exp(log_ratio)
  return policy.Surrogate(
    free + coef * jnp.where(held, jnp.abs(log_ratio), 0),
    held.astype(jnp.float32),
    jnp.zeros_like(free),
  )


def clip_cov(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  key: jax.Array,
  *,
  share: float = 0.0002,
  band: tuple[float, float] = (1.0, 5.0),
  clip_low: float = 0.2,
  clip_high: float = 0.2,
) -> policy.Surrogate:
  """The clipped loss, without some random tokens of high covariance.

  Args:
    log_probs: as in `policy.clipped_surrogate`.
    old_log_probs: as in `policy.clipped_surrogate`.
    advantages: as in `policy.clipped_surrogate`.
    mask: as in `policy.clipped_surrogate`.
    clip_low: as in `policy.clipped_surrogate`.
    clip_high: as in `policy.clipped_surrogate`.
    key: of the choice; used once.
    share: of all tokens, at least one (if there is one in the band).
    band: covariances to choose from, of tokens that are not clipped anyway.

  Returns: the loss, 0 and `clipped` for the chosen tokens.
  """
  policy.assert_shapes(log_probs, old_log_probs, advantages, mask)
  plain = policy.clipped_surrogate(
    log_probs,
    old_log_probs,
    advantages,
    mask,
    clip_low=clip_low,
    clip_high=clip_high,
    dual_clip=None,
  )
  covariances = token_covariances(log_probs, advantages, mask)
  inside = (covariances > band[0]) & (covariances < band[1])
  eligible = inside & mask.astype(bool) & (plain.clipped == 0)
  draws = jax.random.uniform(key, covariances.shape)
  chosen = _largest(draws, eligible, _count(mask, share))
  return plain._replace(
    loss=jnp.where(chosen, 0, plain.loss),
    clipped=jnp.where(chosen, 1, plain.clipped),
  )


def _count(mask: jax.Array, share: float) -> jax.Array:
  tokens = mask.astype(jnp.float32).sum()
  return jnp.maximum(jnp.floor(share * tokens), 1)


def _largest(
  values: jax.Array, eligible: jax.Array, count: jax.Array
) -> jax.Array:
  """The `count` eligible places of the largest values, earlier ones first."""
  order = jnp.argsort(-jnp.where(eligible, values, -jnp.inf), axis=None)
  rank = jnp.argsort(order).reshape(values.shape)
  return eligible & (rank < count)
