"""DAPO's penalty of replies that near the length limit; a part of the reward.

DAPO's loss itself is `policy.clipped_surrogate` with clip_high=0.28 and
dual_clip=10, and `aggregate.token_mean`.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def overlong_penalty(
  lengths: jax.Array, *, longest: int, buffer: int, penalty: float = 1.0
) -> jax.Array:
  """Reward of a reply for its length: 0, then a slope down to -penalty.

    r = -penalty clip((length - (longest - buffer)) / buffer, 0, 1)

  DAPO, Yu et al. 2025, eq. 13 (https://arxiv.org/abs/2503.14476), where
  longest=20480, buffer=4096.

  Args:
    lengths: `[N]`, tokens of each reply.
    longest: tokens, from where on the penalty is full.
    buffer: tokens before that, over which it grows.
    penalty: in reward units.

  Returns: `[N]` float32, to be added to the rewards.

  Raises:
    ValueError: the buffer is not between 1 and `longest`.
  """
  chex.assert_rank(lengths, 1)
  if not 0 < buffer <= longest:
    raise ValueError(
      f'Got buffer={buffer}, expected 1 to longest={longest} tokens.'
    )
  over = (lengths - (longest - buffer)) / buffer
  return -penalty * jnp.clip(over, 0, 1).astype(jnp.float32)
