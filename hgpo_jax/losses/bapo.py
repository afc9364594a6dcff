"""BAPO: clip bounds that are searched until positives weigh enough."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from hgpo_jax.losses import policy


class Bounds(NamedTuple):
  """Bounds of the ratio: two numbers, or `[S]` candidates, best first."""

  low: jax.Array
  high: jax.Array


class Masses(NamedTuple):
  """Sums over positives and over negatives under each candidate, `[S]`.

  The masses of micro-batches add up to those of the whole batch.
  """

  positive: jax.Array
  negative: jax.Array


def bapo(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  bounds: Bounds,
  *,
  dual_clip: float = 3.0,
) -> policy.Surrogate:
  """The clipped surrogate between bounds that `first_hit` found.

  BAPO, https://arxiv.org/abs/2510.18927.

  Args:
    log_probs: as in `policy.clipped_surrogate`.
    old_log_probs: as in `policy.clipped_surrogate`.
    advantages: as in `policy.clipped_surrogate`.
    mask: as in `policy.clipped_surrogate`.
    dual_clip: as in `policy.clipped_surrogate`.
    bounds: two scalars, of the ratio itself.
  """
  policy.assert_shapes(log_probs, old_log_probs, advantages, mask)
  chex.assert_rank(bounds, 0)
  return policy.clip_between(
    jnp.exp(policy.log_ratios(log_probs, old_log_probs, mask)),
    policy.per_token(advantages, mask),
    bounds.low,
    bounds.high,
    dual_clip=dual_clip,
  )


def candidates(
  *,
  low: tuple[float, float] = (0.6, 0.8),
  high: tuple[float, float] = (1.2, 2.0),
  step: float = 0.05,
) -> Bounds:
  """The bounds that the search tries, in its order: low rises, then high.

  Args:
    low: where the lower bound starts, and how far it may rise.
    high: likewise of the upper bound.
    step: by which it rises.
  """
  lows, highs = _rising(*low, step), _rising(*high, step)
  return Bounds(
    jnp.asarray(
      np.append(lows, np.full(highs.size - 1, lows[-1])), jnp.float32
    ),
    jnp.asarray(
      np.append(np.full(lows.size, highs[0]), highs[1:]), jnp.float32
    ),
  )


def masses(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  mask: jax.Array,
  tried: Bounds,
) -> Masses:
  """Sums of weighted advantages under each pair of bounds.

    P = sum_{A > 0} A min(rho, high),  M = sum_{A < 0} |A| max(rho, low)

  Args:
    log_probs: as in `policy.clipped_surrogate`; nothing is differentiated.
    old_log_probs: as in `policy.clipped_surrogate`; nothing is differentiated.
    advantages: as in `policy.clipped_surrogate`; nothing is differentiated.
    mask: as in `policy.clipped_surrogate`; nothing is differentiated.
    tried: `[S]`, see `candidates`.
  """
  policy.assert_shapes(log_probs, old_log_probs, advantages, mask)
  chex.assert_rank(tried, 1)
  ratio = jnp.exp(policy.log_ratios(log_probs, old_log_probs, mask))
  ratio = jax.lax.stop_gradient(ratio)
  advantages = policy.per_token(advantages, mask)
  gains, losses = jnp.maximum(advantages, 0), jnp.maximum(-advantages, 0)
  return Masses(
    jax.vmap(lambda x: jnp.sum(gains * jnp.minimum(ratio, x)))(tried.high),
    jax.vmap(lambda x: jnp.sum(losses * jnp.maximum(ratio, x)))(tried.low),
  )


def first_hit(found: Masses, tried: Bounds, *, target: float = 1.0) -> Bounds:
  """The first bounds with P / M >= target; the last ones if there are none.

  Raising low can only raise M, so once the first bounds miss, low goes all the
  way up and it is high that reaches the target: as in the
  released code.

  Args:
    found: `[S]`, of the whole batch.
    tried: `[S]`, what they were found with.
    target: P over M.
  """
  chex.assert_rank([*found, *tried], 1)
  chex.assert_equal_shape([*found, *tried])
  hit = found.positive >= target * found.negative
  place = jnp.where(hit.any(), jnp.argmax(hit), hit.size - 1)
  return Bounds(tried.low[place], tried.high[place])


def _rising(start: float, stop: float, step: float) -> np.ndarray:
  """start, start + step ... up to stop, which is always the last."""
  if step <= 0 or stop < start:
    raise ValueError(
      f'Got {start} to {stop} in steps of {step}, expected a range that rises.'
    )
  steps = int(np.ceil((stop - start) / step - 1e-6))
  return np.minimum(start + step * np.arange(steps + 1), stop)
