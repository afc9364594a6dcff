"""Softmax attention of grouped queries: the plain form and the platforms' own.

A query sees the keys of its own segment that do not come after it; segment 0
is padding. Which function is used is a name in `Config.attention`.

Axes: B rows, H query heads, KV key heads, Q queries, L new tokens, S columns of
a cache, E head size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from hgpo_jax.model.sharding import partition

MASKED = -1e30  # finite, so that a row without any valid key gives no NaN
_TPU_BLOCK = 128  # tokens that the TPU kernel reads at a time


@flax.struct.dataclass
class Context:
  """Who may see whom; the same for every block.

  Attributes:
    segments: `[B, L]` int32 of the new tokens, 0 on padding; None where every
      row is one text with padding at its end alone. Being causal is then
      enough: what is not padding comes before all padding.
    at: `[B, Q]` int32, the columns of the queries; None for all.
    past: `[B, S]` bool, which columns of a cache the only new token of a
      row sees, its own included; None without a cache.
  """

  segments: Array | None
  at: Array | None = None
  past: Array | None = None

  def visible(self, length: int) -> Array:
    """`[B or 1, Q, L]` bool: whether a query sees a key."""
    if self.past is not None:
      return self.past[:, None]
    columns = jnp.arange(length)
    at = columns[None] if self.at is None else self.at
    earlier = columns[None, None] <= at[..., None]
    if self.segments is None:
      return earlier
    keys = self.segments[:, None, :]
    own = self.segments
    if self.at is not None:
      own = jnp.take_along_axis(own, self.at, axis=1)
    return earlier & (own[..., None] == keys) & (keys > 0)


# q `[B, H, Q, E]`, k and v `[B, KV, L, E]`, context -> `[B, H, Q, E]`
Attention = Callable[[Array, Array, Array, Context], Array]


def plain(q: Array, k: Array, v: Array, context: Context) -> Array:
  """Attention written out: the reference.

  Args:
    q: `[B, H, Q, E]`.
    k: `[B, KV, L, E]`.
    v: `[B, KV, L, E]`.
    context: who sees whom.

  Returns: `[B, H, Q, E]` in the type of `q`.
  """
  return cached(q, jnp.swapaxes(k, -1, -2), v, context)


def cached(q: Array, k: Array, v: Array, context: Context) -> Array:
  """As `plain`, with keys `[B, KV, E, L]`: as a cache holds them.

  The queries of all heads that share a key head form one tall matrix. Weights
  are divided by their sum last, on the small output.
  """
  batch, heads, queries, size = q.shape
  tall = (q * size**-0.5).reshape(batch, k.shape[1], -1, size)
  scores = _scores(tall, k, context.visible(k.shape[-1]))
  top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
  weights = jnp.exp(scores - top)
  out = jnp.matmul(
    weights.astype(v.dtype), v, preferred_element_type=jnp.float32
  )
  out /= jnp.sum(weights, axis=-1, keepdims=True)
  return out.astype(q.dtype).reshape(batch, heads, queries, size)


def _scores(q: Array, k: Array, visible: Array) -> Array:
  """`q [B, KV, T, E]`, `k [B, KV, E, S]` -> float32 `[B, KV, T, S]`.

  T is the Q queries of each query head that a key head serves.
  """
  scores = jnp.matmul(q.astype(k.dtype), k, preferred_element_type=jnp.float32)
  bias = jnp.where(visible, 0.0, MASKED)[:, None, None]  # [B, 1, 1, Q or 1, S]
  per_query = scores.reshape(*q.shape[:2], -1, *visible.shape[-2:])
  return (per_query + bias).reshape(scores.shape)


def library(
  q: Array,
  k: Array,
  v: Array,
  context: Context,
  *,
  implementation: Literal['xla', 'cudnn'],
) -> Array:
  """JAX's own `dot_product_attention`: 'cudnn' on NVIDIA GPUs, 'xla' anywhere.

  Its cuDNN form takes no segment ids, so packed rows are given their whole
  mask; rows of one text need none.
  """
  mask = None
  if context.segments is not None or context.at is not None:
    mask = context.visible(k.shape[2])[:, None]  # [B, 1, Q, L]
  out = jax.nn.dot_product_attention(
    jnp.swapaxes(q, 1, 2),
    jnp.swapaxes(k, 1, 2),
    jnp.swapaxes(v, 1, 2),
    mask=mask,
    is_causal=mask is None,
    implementation=implementation,
  )
  return jnp.swapaxes(out, 1, 2)


def tpu_flash(q: Array, k: Array, v: Array, context: Context) -> Array:
  """The flash kernel that JAX ships for TPU; it reads segment ids itself.

  It wants whole blocks of tokens: what is added behind L is seen by no query
  that counts.
  """
  # Pallas' TPU backend is not importable everywhere.
  from jax.experimental.pallas.ops.tpu import flash_attention as flash

  if context.at is not None:  # the kernel is causal by place
    return plain(q, k, v, context)
  groups, length = q.shape[1] // k.shape[1], q.shape[2]
  extra = -length % _TPU_BLOCK
  q, k, v = (
    jnp.pad(x, [(0, 0), (0, 0), (0, extra), (0, 0)]) for x in (q, k, v)
  )
  ids = context.segments
  ids = None if ids is None else jnp.pad(ids, [(0, 0), (0, extra)])

  def kernel(q: Array, k: Array, v: Array, ids: Array | None) -> Array:
    return flash.flash_attention(
      q,
      k,
      v,
      segment_ids=None if ids is None else flash.SegmentIds(q=ids, kv=ids),
      causal=True,
      sm_scale=q.shape[-1] ** -0.5,
    )

  k, v = (jnp.repeat(x, groups, axis=1) for x in (k, v))
  return _on_each_device(kernel, q, k, v, ids)[:, :, :length]


def _on_each_device(
  kernel: Callable[..., Array], q: Array, k: Array, v: Array, ids: Array | None
) -> Array:
  """XLA cannot split a kernel over a mesh, so that this must say how."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return kernel(q, k, v, ids)
  split = partition(dict(mesh.shape), q.shape, ('rows', 'heads', None, None))
  rows = None if ids is None else jax.sharding.PartitionSpec(split[0], None)
  return jax.shard_map(
    kernel,
    in_specs=(split, split, split, rows),
    out_specs=split,
    check_vma=False,
  )(q, k, v, ids)


IMPLEMENTATIONS: dict[str, Attention] = {
  'plain': plain,
  'xla': functools.partial(library, implementation='xla'),
  'cudnn': functools.partial(library, implementation='cudnn'),
  'tpu': tpu_flash,
}
_OF_PLATFORM = {'gpu': 'cudnn', 'tpu': 'tpu'}


def choose(name: str, dtype: str) -> Attention:
  """The function of a name; 'auto' takes the platform's own.

  cuDNN has no float32 form, so float32 is computed plainly.

  Raises: ValueError for a name that is not known.
  """
  if name == 'auto':
    name = _OF_PLATFORM.get(jax.default_backend(), 'plain')
    if dtype == 'float32':
      name = 'plain'
  if name not in IMPLEMENTATIONS:
    raise ValueError(
      f'attention={name!r}; expected "auto" or one of {list(IMPLEMENTATIONS)}.'
    )
  return IMPLEMENTATIONS[name]
