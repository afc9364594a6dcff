"""Rotary positions, counted within each text of a row.

Su et al. 2021 (https://arxiv.org/abs/2104.09864), with the pairs (x_i,
x_{i+E/2}) of the released models.

Axes: B rows, L tokens, H heads, E head size.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def segment_positions(segments: Array) -> Array:
  """Places within their segment, counted from 0; padding is not counted.

  Args:
    segments: `[B, L]` int32, 0 on padding, else ascending along a row.

  Returns: `[B, L]` int32; of no meaning on padding, but at least 0.
  """
  count = jnp.cumsum(segments > 0, axis=1) - 1
  newest = jax.lax.cummax(segments, axis=1)
  before = jnp.pad(newest[:, :-1], ((0, 0), (1, 0)))
  start = jax.lax.cummax(jnp.where(newest > before, count, 0), axis=1)
  return jnp.maximum(count - start, 0)


def table(head_dim: int, base: float, length: int) -> tuple[Array, Array]:
  """Cosines and sines `[length, E/2]` of every position.

  A constant, so that XLA does not compute sines anew for each head and use.
  """
  half = head_dim // 2
  frequencies = base ** -(np.arange(half) / half)
  angles = np.arange(length)[:, None] * frequencies
  return jnp.float32(np.cos(angles)), jnp.float32(np.sin(angles))


def rotate(x: Array, cos: Array, sin: Array) -> Array:
  """Turns the pairs (x_i, x_{i+E/2}) of `[B, H, L, E]` by their angles."""
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return turned.astype(x.dtype)
