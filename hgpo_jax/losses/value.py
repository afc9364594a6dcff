"""The critic's loss on values `[N, R]`."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class ClippedError(NamedTuple):
  """Per value, both `[N, R]`; `aggregate` turns each into one number.

  Attributes:
    loss: float32, to be minimised, in squared reward units.
    clipped: float32, 1 where the clip bound, so that no gradient flows.
  """

  loss: jax.Array
  clipped: jax.Array


def clipped_error(
  values: jax.Array,
  old_values: jax.Array,
  targets: jax.Array,
  *,
  clip: float,
) -> ClippedError:
  """Half the squared error, which is flat once a value has moved enough.

    l = 1/2 max((V - G)^2, (clip(V, V_old - c, V_old + c) - G)^2)

  The value clipping of PPO's public code, written out by Engstrom et al. 2020,
  sec. 2 (https://arxiv.org/abs/2005.12729).

  Args:
    values: V, `[N, R]` of the critic that learns; finite on padding too.
    old_values: V_old, `[N, R]` of the critic before the update; constants.
    targets: G, `[N, R]`, what is to be predicted; constants.
    clip: c, in reward units; inf leaves it out.

  Raises:
    ValueError: clip is not positive, so that nothing could ever be learned.
  """
  chex.assert_rank(values, 2)
  chex.assert_equal_shape([values, old_values, targets])
  if not clip > 0:
    raise ValueError(f'Got clip={clip}, expected more than 0.')
  values = values.astype(jnp.float32)
  old_values, targets = (
    jax.lax.stop_gradient(x.astype(jnp.float32)) for x in (old_values, targets)
  )
  held = old_values + jnp.clip(values - old_values, -clip, clip)
  free_error = jnp.square(values - targets)
  held_error = jnp.square(held - targets)
  clipped = held_error > free_error
  loss = 0.5 * jnp.maximum(free_error, held_error)
  return ClippedError(loss, clipped.astype(jnp.float32))
