"""HAPO: advantages and clip bounds that depend on each token's entropy."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from hgpo_jax.losses import policy

_LEAST_ENTROPY = 1e-8  # nats


class EntropyScale(NamedTuple):
  """What the log-entropies of a whole batch are measured against.

  Attributes:
    pivot: `[]`, the log-entropy that scores 0.
    top, bottom: `[]`, how far the largest lies above it and the least below.
  """

  pivot: jax.Array
  top: jax.Array
  bottom: jax.Array


def hapo(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  scores: jax.Array,
  *,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  dual_clip: float = 10.0,
) -> policy.Surrogate:
  """The clipped surrogate with `redistributed` A between `adaptive_bounds`.

  HAPO, https://arxiv.org/abs/2509.16591. With all scores 0 it is the plain one.

  Args:
    log_probs: as in `policy.clipped_surrogate`.
    old_log_probs: as in `policy.clipped_surrogate`.
    advantages: as in `policy.clipped_surrogate`.
    mask: as in `policy.clipped_surrogate`.
    clip_low: as in `policy.clipped_surrogate`.
    clip_high: as in `policy.clipped_surrogate`.
    dual_clip: as in `policy.clipped_surrogate`.
    scores: `[N, R]`, see `entropy_scores`; constants.
  """
  policy.assert_shapes(log_probs, old_log_probs, advantages, mask)
  chex.assert_equal_shape([scores, mask])
  scores = policy.per_token(scores, mask)
  ratio = jnp.exp(policy.log_ratios(log_probs, old_log_probs, mask))
  low, high = adaptive_bounds(scores, clip_low=clip_low, clip_high=clip_high)
  advantages = redistributed(
    policy.per_token(advantages, mask),
    scores,
    ratio,
    clip_low=clip_low,
    clip_high=clip_high,
  )
  return policy.clip_between(ratio, advantages, low, high, dual_clip=dual_clip)


def entropy_scale(
  entropy: jax.Array, mask: jax.Array, *, quantile: float = 0.8
) -> EntropyScale:
  """Measures the token entropies of a whole batch.

  Args:
    entropy: `[N, R]` in nats, of the policy that sampled.
    mask: `[N, R]`.
    quantile: share of tokens below the pivot, which is one of them.
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([entropy, mask])
  real = mask.astype(bool)
  logs = _log_entropy(entropy, real)
  last = jnp.maximum(real.sum() - 1, 0)
  place = jnp.round(quantile * last).astype(jnp.int32)
  pivot = jnp.sort(jnp.where(real, logs, jnp.inf), axis=None)[place]
  above = jnp.where(real, logs - pivot, 0)
  return EntropyScale(pivot, above.max(), -above.min())


def entropy_scores(
  entropy: jax.Array, mask: jax.Array, scale: EntropyScale
) -> jax.Array:
  """Places each token's log-entropy between -1 and 1.

    h = log H - pivot;  h / max h where h > 0, h / |min h| elsewhere

  The released code divides h by its root mean square first, which cancels, and
  its negative part by min h, which makes every score positive; this is the
  form that was meant.

  Returns: `[N, R]`; 0 at the pivot and on padding. Tokens outside the batch
    that was measured score at most 1, at least -1.
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([entropy, mask])
  real = mask.astype(bool)
  h = jnp.where(real, _log_entropy(entropy, real) - scale.pivot, 0)
  size = jnp.where(h > 0, scale.top, scale.bottom)
  scores = jnp.clip(h / jnp.where(size > 0, size, 1), -1, 1)
  return jax.lax.stop_gradient(scores)


def adaptive_bounds(
  scores: jax.Array, *, clip_low: float, clip_high: float
) -> tuple[jax.Array, jax.Array]:
  """Bounds of the ratio: uncertain tokens may rise further, sure ones fall.

    low = 1 - clip_low (1 - min(h, 0)),  high = 1 + clip_high (1 + max(h, 0))

  Args:
    scores: h, of any shape, which both results have.
    clip_low: half of the largest, and all of the least, distance below 1.
    clip_high: likewise above 1.
  """
  low = 1 - clip_low * (1 - jnp.minimum(scores, 0))
  high = 1 + clip_high * (1 + jnp.maximum(scores, 0))
  return low, high


def redistributed(
  advantages: jax.Array,
  scores: jax.Array,
  ratio: jax.Array,
  *,
  clip_low: float,
  clip_high: float,
) -> jax.Array:
  """Scales A by 1 + h, for h > 0 where the ratio has moved, else where not.

  "Moved" is outside (1 - clip_low / 2, 1 + clip_high / 2). All are `[N, R]`.
  """
  chex.assert_equal_shape([advantages, scores, ratio])
  near = (ratio > 1 - clip_low / 2) & (ratio < 1 + clip_high / 2)
  scaled = jnp.where(scores > 0, ~near, near)
  return jnp.where(scaled, advantages * (1 + scores), advantages)


def token_group_advantages(
  rewards: jax.Array,
  lengths: jax.Array,
  groups: jax.Array,
  fallback: jax.Array,
  *,
  limit: float = 5.0,
  eps: float = 1e-6,
) -> jax.Array:
  """Standardises rewards with the moments of all tokens of the group.

    A = (R - mean) / (std + eps),  each reply counted once per token

  so that the advantages of a group's tokens add up to 0.

  Args:
    rewards: `[N]`, of each reply.
    lengths: `[N]`, its tokens; 0 on padding.
    groups: `[N]` int32 in [0, N).
    fallback: `[N]`, taken (GRPO's, say) for every reply of a group in which
      some |A| reaches the limit: a short reply against many tokens.
    limit: of |A|.
    eps: floor of the spread, in reward units.

  Returns: `[N]`; 0 on padding and in a group without spread.
  """
  chex.assert_shape([rewards, lengths, groups, fallback], (rewards.size,))
  size = rewards.shape[0]
  real = lengths > 0
  weight = jnp.where(real, lengths, 0).astype(jnp.float32)
  top = jax.ops.segment_max(jnp.where(real, rewards, -jnp.inf), groups, size)
  low = jax.ops.segment_min(jnp.where(real, rewards, jnp.inf), groups, size)
  spread = (top > low)[groups] & real  # exact, without a sum
  # Counted from the group's least reward: large equal parts cost no digits.
  above = jnp.where(real, rewards - low[groups], 0).astype(jnp.float32)

  def total(values: jax.Array) -> jax.Array:
    sums = jax.ops.segment_sum(weight * values, groups, size)
    return sums[groups]

  count = jnp.maximum(total(jnp.ones(size)), 1)
  centred = above - total(above) / count
  variance = total(centred**2) / count
  advantages = centred / (jnp.sqrt(variance) + eps)
  far = jnp.where(real, jnp.abs(advantages), 0)
  wild = jax.ops.segment_max(far, groups, size)[groups] >= limit
  return jnp.where(spread, jnp.where(wild, fallback, advantages), 0)


def _log_entropy(entropy: jax.Array, real: jax.Array) -> jax.Array:
  """Returns log H, where the surest tokens still have a logarithm."""
  known = jnp.where(real, entropy, 1).astype(jnp.float32)
  return jnp.log(jnp.maximum(known, _LEAST_ENTROPY))
