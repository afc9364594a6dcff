"""Policy losses on token log-probs `[B, L]`."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

# exp(20) is still a small number in float32; a ratio past it carries no news.
_MAX_LOG_RATIO = 20.0


class Surrogate(NamedTuple):
  """Per token, all `[B, L]`; `aggregate` turns each into one number.

  Attributes:
    loss: float32, to be made small.
    clipped: float32, 1 where the clip bound, so that no gradient flows; its
      token mean is the clip fraction.
    dual_clipped: float32, 1 where the bound of negative advantages did.
  """

  loss: jax.Array
  clipped: jax.Array
  dual_clipped: jax.Array


def clipped_surrogate(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  advantages: jax.Array,
  *,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
  dual_clip: float | None = 3.0,
) -> Surrogate:
  """Policy-gradient loss that stops pulling once the policy has moved enough.

    l = max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high)),
    rho = exp(log_probs - old_log_probs);  where A < 0, l = min(l, -A dual_clip)

  PPO, Schulman et al. 2017, eq. 7 (https://arxiv.org/abs/1707.06347), with the
  dual clip of Ye et al. 2020, eq. 5 (https://arxiv.org/abs/1912.09729).

  Args:
    log_probs: `[B, L]` float32 of the policy that learns; finite on padding
      too, as a masked nan would still spoil the gradient.
    old_log_probs: `[B, L]` of the policy that sampled; taken as constants.
    advantages: `[B]`, or `[B, L]` if the tokens of a row differ.
    clip_low, clip_high: how far the ratio may move down and up.
    dual_clip: above 1, bounds the loss of a token that became too likely;
      None leaves it out.

  Raises:
    ValueError: dual_clip is 1 or less, which would cut the loss at ratio 1.
  """
  if dual_clip is not None and dual_clip <= 1:
    raise ValueError(f'Got dual_clip={dual_clip}, expected None or above 1.')
  if advantages.ndim == 1:
    advantages = advantages[:, None]
  advantages = jax.lax.stop_gradient(advantages.astype(jnp.float32))
  log_ratio = log_probs - jax.lax.stop_gradient(old_log_probs)
  bounded = jnp.clip(log_ratio, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)
  ratio = jnp.exp(bounded.astype(jnp.float32))
  free = -advantages * ratio
  held = -advantages * jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
  loss, clipped = jnp.maximum(free, held), held > free
  dual_clipped = jnp.zeros_like(clipped)
  if dual_clip is not None:
    most = -advantages * dual_clip
    dual_clipped = (advantages < 0) & (loss > most)
    loss = jnp.where(dual_clipped, most, loss)
  return Surrogate(
    loss, clipped.astype(jnp.float32), dual_clipped.astype(jnp.float32)
  )
