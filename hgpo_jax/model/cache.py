"""Keys and values of past tokens: of all blocks, or of one at a time.

Axes: B rows, KV stored key heads, S columns, E head size.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array


@flax.struct.dataclass
class KVCache:
  """Keys and values of the tokens seen so far; row b fills columns from 0 on.

  KV counts the heads that are stored, which may be copies for a mesh.

  Attributes:
    k: `[layers, B, KV, E, S]` keys, rotated; so turned, reading them for one
      query takes half the time on a CPU.
    v: `[layers, B, KV, S, E]` values, likewise.
    length: `[B]` int32, columns in use.
  """

  k: Array
  v: Array
  length: Array

  @property
  def columns(self) -> int:
    """S."""
    return self.v.shape[-2]

  def first(self, columns: int) -> KVCache:
    """Its first columns; static."""
    k, v = self.k[..., :columns], self.v[..., :columns, :]
    return KVCache(k, v, self.length)

  def with_first(self, part: KVCache) -> KVCache:
    """The cache with what a loop over its `first` columns has left there."""

    def put(old: Array, new: Array) -> Array:
      if new.shape == old.shape:
        return new
      return jax.lax.dynamic_update_slice(old, new, (0,) * old.ndim)

    return KVCache(put(self.k, part.k), put(self.v, part.v), part.length)


@flax.struct.dataclass
class BlockCache:
  """Where one block puts its keys and values, and finds those of before.

  Attributes:
    k, v: those of all blocks, as in `KVCache`.
    layer: `[]` int32, the block.
    length: `[B]` int32, columns in use.
  """

  k: Array
  v: Array
  layer: Array
  length: Array

  def add(self, k: Array, v: Array) -> BlockCache:
    """Appends `[B, KV, 1, E]` to every row.

    Keys are written before they are read: in the other order XLA copies the
    cache.
    """
    rows, each = (self.layer, jnp.arange(k.shape[0])), slice(None)

    def put(old: Array, place: tuple[Array | slice, ...], new: Array) -> Array:
      new = new[:, :, 0].astype(old.dtype)  # [B, KV, E]
      return old.at[place].set(new, mode='drop')

    return dataclasses.replace(
      self,
      k=put(self.k, (*rows, each, each, self.length), k),
      v=put(self.v, (*rows, each, self.length), v),
    )

  def mine(self) -> tuple[Array, Array]:
    """This block's keys `[B, KV, E, S]` and values `[B, KV, S, E]`."""
    pick = functools.partial(
      jax.lax.dynamic_index_in_dim, index=self.layer, keepdims=False
    )
    return pick(self.k), pick(self.v)
