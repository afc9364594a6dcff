"""Keys and values of past tokens: of all blocks, or of one at a time.

Axes: B rows, KV stored key heads, S columns, E head size.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

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
      query takes half the time on a CPU. Within a loop of an unrolled model a
      tuple of `[B, KV, E, S]`, one per block.
    v: `[layers, B, KV, S, E]` values, likewise.
    length: `[B]` int32, columns in use.
  """

  k: Any
  v: Any
  length: Array

  @property
  def columns(self) -> int:
    """S."""
    return self.v[0].shape[-2]


@flax.struct.dataclass
class BlockCache:
  """Where one block puts its keys and values, and finds those of before.

  Attributes:
    k, v: this block's `[B, KV, E, S]` and `[B, KV, S, E]`, or all blocks' with
      an axis before.
    layer: `[]` int32 on that axis; None without.
    length: `[B]` int32, columns in use.
  """

  k: Array
  v: Array
  layer: Array | None
  length: Array

  def add(self, k: Array, v: Array) -> BlockCache:
    """Appends `[B, KV, 1, E]` to every row.

    Keys are written before they are read: in the other order XLA copies the
    cache.
    """
    layer = () if self.layer is None else (self.layer,)
    rows, each = (*layer, jnp.arange(k.shape[0])), slice(None)

    def put(old: Array, place: tuple, new: Array) -> Array:
      new = new[:, :, 0].astype(old.dtype)  # [B, KV, E]
      return old.at[place].set(new, mode='drop')

    return dataclasses.replace(
      self,
      k=put(self.k, (*rows, each, each, self.length), k),
      v=put(self.v, (*rows, each, self.length), v),
    )

  def mine(self) -> tuple[Array, Array]:
    """This block's keys `[B, KV, E, S]` and values `[B, KV, S, E]`."""
    if self.layer is None:
      return self.k, self.v
    pick = functools.partial(
      jax.lax.dynamic_index_in_dim, index=self.layer, keepdims=False
    )
    return pick(self.k), pick(self.v)


def restack(whole: KVCache, part: KVCache) -> KVCache:
  """Writes what a loop over part of a cache has left back to the whole.

  Args:
    whole: stacked.
    part: its first columns, stacked or one array per block.
  """

  def put(old: Array, new: Array | tuple[Array, ...]) -> Array:
    new = jnp.stack(new) if isinstance(new, tuple) else new
    return new if new.shape == old.shape else _write_first(old, new)

  return KVCache(put(whole.k, part.k), put(whole.v, part.v), part.length)


def _write_first(old: Array, new: Array) -> Array:
  return jax.lax.dynamic_update_slice(old, new, (0,) * old.ndim)


def pieces(stacked: Any, layers: int) -> tuple[Any, ...]:
  """A tree that is stacked along axis 0 -> one tree per block."""
  return tuple(
    jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(layers)
  )
