"""CHORD: reinforcement and imitation of expert rows in one loss.

https://arxiv.org/abs/2508.11408.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from hgpo_jax.losses import aggregate


class Counts(NamedTuple):
  """Tokens of the whole batch, float32: denominators of the two means."""

  own: jax.Array
  expert: jax.Array


def count(expert: jax.Array, mask: jax.Array) -> Counts:
  """Counts the tokens of `expert [N]` rows, and of the others."""
  chex.assert_rank(mask, 2)
  chex.assert_shape(expert, mask.shape[:1])
  own, shown = _split(expert, mask)
  return Counts(aggregate.count_tokens(own), aggregate.count_tokens(shown))


def chord(
  policy_loss: jax.Array,
  imitation_loss: jax.Array,
  expert: jax.Array,
  mask: jax.Array,
  mu: jax.Array | float,
  counts: Counts | None = None,
) -> jax.Array:
  """Mixes the mean loss of own tokens with that of expert tokens.

    L = (1 - mu) mean_own(l) + mu mean_expert(l_sft)

  Args:
    policy_loss: `[N, R]`, a surrogate's; finite on expert rows, not used.
    imitation_loss: `[N, R]`, `nll` or `weighted_nll`; used on expert rows.
    expert: `[N]` bool, rows that an expert wrote.
    mask: `[N, R]`.
    mu: weight of imitation, see `mu_schedule`.
    counts: of the whole batch; of this one if None.

  Returns: float32 scalar.
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([policy_loss, imitation_loss, mask])
  chex.assert_shape(expert, mask.shape[:1])
  counts = count(expert, mask) if counts is None else counts
  own, shown = _split(expert, mask)
  reinforced = aggregate.token_mean(policy_loss, own, counts.own)
  imitated = aggregate.token_mean(imitation_loss, shown, counts.expert)
  return (1 - mu) * reinforced + mu * imitated


def nll(log_probs: jax.Array) -> jax.Array:
  """-log p, of any shape."""
  return -log_probs


def weighted_nll(log_probs: jax.Array) -> jax.Array:
  """-sg(p (1 - p)) log p: largest where p is 1/2.

  The paper's phi: small for tokens that the policy knows, and for tokens that
  it finds very unlikely. Of any shape.
  """
  p = jnp.exp(jax.lax.stop_gradient(log_probs))
  return -p * (1 - p) * log_probs


def mu_schedule(
  step: jax.Array | int,
  *,
  warmup: int = 0,
  decay: int = 200,
  peak: float = 0.9,
  valley: float = 0.05,
) -> jax.Array:
  """Weight of imitation: a line up to `peak`, then a cosine to `valley`.

  The defaults are the paper's chord-mu, with plain `nll`; its chord-phi stays
  at mu = 0.1 with `weighted_nll`.

  Args:
    step: updates done, of any shape.
    warmup: updates from 0 to the peak.
    decay: updates from the peak to the valley.
    peak: the largest weight, in [0, 1].
    valley: the last weight, in [0, 1].
  """
  step = jnp.asarray(step, jnp.float32)
  rising = peak * step / max(warmup, 1)
  x = jnp.clip((step - warmup) / max(decay, 1), 0, 1)
  falling = valley + (peak - valley) * 0.5 * (1 + jnp.cos(jnp.pi * x))
  return jnp.where(step < warmup, rising, falling)


def _split(expert: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Masks `[N, R]` of own and of expert tokens."""
  real, expert = mask.astype(bool), expert.astype(bool)[:, None]
  return real & ~expert, real & expert
