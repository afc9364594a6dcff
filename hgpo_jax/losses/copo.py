"""COPO: a loss within tasks and one between tasks, mixed reply by reply."""

from __future__ import annotations

import chex
import jax

from hgpo_jax.losses import policy


def copo(
  log_probs: jax.Array,
  old_log_probs: jax.Array,
  local: jax.Array,
  across: jax.Array,
  weight: jax.Array,
  mask: jax.Array,
  *,
  clip_low: float = 0.2,
  clip_high: float = 0.2,
) -> policy.Surrogate:
  """Mixes two clipped losses.

    l = w l(A_local) + (1 - w) l(A_across)

  COPO, https://arxiv.org/abs/2508.04138. While no ratio meets a clip, this is
  the loss of the advantage w A_local + (1 - w) A_across.

  Args:
    log_probs: as in `policy.clipped_surrogate`.
    old_log_probs: as in `policy.clipped_surrogate`.
    mask: as in `policy.clipped_surrogate`.
    clip_low: as in `policy.clipped_surrogate`.
    clip_high: as in `policy.clipped_surrogate`.
    local: `[N]`, advantages within the group.
    across: `[N]`, advantages across groups.
    weight: `[N]` in [0, 1], of the local one; a constant.

  Returns: every field mixed, the clip marks too.
  """
  policy.assert_shapes(log_probs, old_log_probs, local, mask)
  chex.assert_shape([local, across, weight], mask.shape[:1])
  weight = policy.per_token(weight, mask)
  first, second = (
    policy.clipped_surrogate(
      log_probs,
      old_log_probs,
      advantages,
      mask,
      clip_low=clip_low,
      clip_high=clip_high,
      dual_clip=None,
    )
    for advantages in (local, across)
  )
  return jax.tree.map(lambda x, y: weight * x + (1 - weight) * y, first, second)
