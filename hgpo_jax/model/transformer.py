"""The decoder-only transformer that several models are sizes and options of.

RMSNorm before each half of a block, rotary positions, grouped-query attention,
SwiGLU, and a head that may be tied to the embedding. `Config.qkv_bias` and
`Config.qk_norm` are the options; `architecture` makes what a model's own file
gives away.

The parameters of all blocks are stacked along axis 0 and scanned, so that
compile time does not grow with depth. The module is wrapped in pure functions
over a plain nested dict of arrays; nothing else in the code base sees NNX. What
they take and return stands in `interface.Model`.

Axes: B rows, L tokens of this call, Q of them whose hidden states are wanted,
S columns of a cache, H query heads, KV key heads, E head size, D width, V
vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from hgpo_jax.model import attention, lora, rotary
from hgpo_jax.model.cache import BlockCache, KVCache
from hgpo_jax.model.interface import Architecture, Config
from hgpo_jax.model.remat import rematerialised
from hgpo_jax.model.sharding import axis_size, constrain
from hgpo_jax.types import Params, PyTree


@flax.struct.dataclass
class _View:
  """What every block needs to know about positions; computed once a call.

  Attributes:
    cos, sin: `[B or 1, 1, L, E/2]` float32, rotary tables of the tokens.
    context: who sees whom.
  """

  cos: Array
  sin: Array
  context: attention.Context

  def at(self, columns: Array | None) -> _View:
    """The same view with queries at `columns [B, Q]` only."""
    context = dataclasses.replace(self.context, at=columns)
    return dataclasses.replace(self, context=context)


class RMSNorm(nnx.Module):
  """x / rms(x) * scale, the mean square taken in float32."""

  def __init__(self, config: Config, size: int):
    self.eps = config.norm_eps
    self.scale = nnx.Param(jnp.ones(size, config.param_dtype))

  def __call__(self, x: Array) -> Array:
    """Normalises `[..., size]`."""
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(x32 * x32, axis=-1, keepdims=True)
    normed = x32 * jax.lax.rsqrt(mean_square + self.eps)
    scale = self.scale[...].astype(x.dtype)
    return normed.astype(x.dtype) * jnp.expand_dims(scale, range(x.ndim - 1))


class Linear(nnx.Module):
  """x @ kernel + bias, over all leading axes of x; with an adapter if any."""

  def __init__(
    self,
    config: Config,
    name: str,
    inputs: int,
    outputs: int,
    rngs: nnx.Rngs,
    bias: bool = False,
  ):
    normal = nnx.initializers.normal(config.init_std)
    shape, dtype = (inputs, outputs), config.param_dtype
    self.kernel = nnx.Param(normal(rngs.params(), shape, dtype))
    self.has_bias = bias
    if bias:
      self.bias = nnx.Param(jnp.zeros(outputs, dtype))
    adapters = config.lora
    self.lora = adapters if adapters and adapters.adapts(name) else None
    if self.lora:
      scaled = nnx.initializers.normal(inputs**-0.5)
      shape = (inputs, self.lora.rank)
      # Adapters are what is trained, so they are kept exactly.
      self.lora_a = nnx.Param(scaled(rngs.params(), shape, jnp.float32))
      self.lora_b = nnx.Param(jnp.zeros((self.lora.rank, outputs)))

  def __call__(self, x: Array) -> Array:
    """`[..., in]` -> `[..., out]`."""
    # Flat rows: for more axes XLA's CPU compiler writes a transposed copy of
    # the activations to form the kernel's gradient, which doubles the time.
    flat = x.reshape(-1, x.shape[-1])
    y = flat @ self.kernel[...].astype(x.dtype)
    if self.has_bias:
      y += self.bias[...].astype(x.dtype)[None]
    if self.lora:
      y += lora.adapted(flat, self.lora_a[...], self.lora_b[...], self.lora)
    return y.reshape(*x.shape[:-1], -1)


def _columns(x: Array, at: Array | None) -> Array:
  """`x [B, L, D]` -> `[B, Q, D]`."""
  return x if at is None else jnp.take_along_axis(x, at[..., None], axis=1)


class Attention(nnx.Module):
  """Grouped-query attention over the cached and the new tokens."""

  def __init__(self, config: Config, rngs: nnx.Rngs):
    heads = config.num_heads * config.head_dim
    kv_heads = config.num_kv_heads * config.head_dim
    width = config.width
    bias = config.qkv_bias
    self.config = config
    self.q_proj = Linear(config, 'q_proj', width, heads, rngs, bias)
    self.k_proj = Linear(config, 'k_proj', width, kv_heads, rngs, bias)
    self.v_proj = Linear(config, 'v_proj', width, kv_heads, rngs, bias)
    self.o_proj = Linear(config, 'o_proj', heads, width, rngs)
    if config.qk_norm:
      self.q_norm = RMSNorm(config, config.head_dim)
      self.k_norm = RMSNorm(config, config.head_dim)

  def __call__(
    self, x: Array, view: _View, store: BlockCache | None
  ) -> tuple[Array, Any]:
    """`x [B, L, D]` -> output `[B, Q, D]`, and the store with what is new.

    Without a store the new keys and values `[B, KV, L, E]` take its place.
    """
    at = view.context.at
    q = self._heads(self.q_proj(_columns(x, at)))  # [B, H, Q, E]
    k = self._heads(self.k_proj(x))  # [B, KV, L, E]
    v = self._heads(self.v_proj(x))
    if self.config.qk_norm:
      q, k = self.q_norm(q), self.k_norm(k)
    q = rotary.rotate(q, *_tables(view, at))
    k = rotary.rotate(k, view.cos, view.sin)
    k, v = (self._stored(y) for y in (k, v))
    q = constrain(q, 'rows', 'heads', None, None)
    new: BlockCache | tuple[Array, Array] = (k, v)
    if store is None:
      attend = attention.choose(self.config.attention, self.config.dtype)
      out = attend(q, k, v, view.context)
    else:
      new = store = store.add(k, v)
      k, v = store.mine()
      out = attention.cached(q, k, v, view.context)
    out = jnp.swapaxes(out, 1, 2).reshape(x.shape[0], q.shape[2], -1)
    return self.o_proj(out), new

  def _heads(self, x: Array) -> Array:
    x = x.reshape(*x.shape[:2], -1, self.config.head_dim)
    return jnp.swapaxes(x, 1, 2)

  def _stored(self, x: Array) -> Array:
    """Copies key heads until the mesh's tensor axis divides them."""
    copies = cache_heads(self.config) // self.config.num_kv_heads
    x = jnp.repeat(x, copies, axis=1) if copies > 1 else x
    return constrain(x, 'rows', 'kv_heads', None, None)


def _tables(view: _View, at: Array | None) -> tuple[Array, Array]:
  """Rotary tables of the queries."""
  if at is None:
    return view.cos, view.sin
  columns = at[:, None, :, None]  # [B, 1, Q, 1]
  return tuple(
    jnp.take_along_axis(
      jnp.broadcast_to(t, (at.shape[0], *t.shape[1:])), columns, axis=2
    )
    for t in (view.cos, view.sin)
  )  # type: ignore[return-value]


def cache_heads(config: Config) -> int:
  """Key heads that are stored: KV, or copies of them for a tensor axis.

  A tensor axis that does not divide KV gets lcm(KV, its size) heads, so that
  every device holds whole heads and none that its queries do not read.
  """
  return math.lcm(config.num_kv_heads, axis_size('tensor'))


class MLP(nnx.Module):
  """SwiGLU: down(silu(gate(x)) * up(x))."""

  def __init__(self, config: Config, rngs: nnx.Rngs):
    width, ff = config.width, config.ff_width
    self.gate_proj = Linear(config, 'gate_proj', width, ff, rngs)
    self.up_proj = Linear(config, 'up_proj', width, ff, rngs)
    self.down_proj = Linear(config, 'down_proj', ff, width, rngs)

  def __call__(self, x: Array) -> Array:
    """`[B, L, D]` -> `[B, L, D]`."""
    inner = jax.nn.silu(self.gate_proj(x)) * self.up_proj(x)
    return self.down_proj(constrain(inner, 'rows', None, 'ff'))


class Block(nnx.Module):
  """One layer: attention and SwiGLU, each behind a norm and a residual."""

  def __init__(self, config: Config, rngs: nnx.Rngs):
    self.attention_norm = RMSNorm(config, config.width)
    self.attention = Attention(config, rngs)
    self.mlp_norm = RMSNorm(config, config.width)
    self.mlp = MLP(config, rngs)

  def __call__(
    self, x: Array, view: _View, store: BlockCache | None
  ) -> tuple[Array, Any]:
    """`x [B, L, D]` -> `[B, Q, D]`, and what `Attention` gives beside it."""
    out, kv = self.attention(self.attention_norm(x), view, store)
    x = _columns(x, view.context.at) + out
    x = x + self.mlp(self.mlp_norm(x))
    return constrain(x, 'rows', None, 'width'), kv


class Transformer(nnx.Module):
  """The whole model; `layers` holds every block, stacked along axis 0."""

  def __init__(self, config: Config, rngs: nnx.Rngs):
    self.config = config
    normal = nnx.initializers.normal(config.init_std)
    table = (config.vocab_size, config.width)
    self.embed = nnx.Param(normal(rngs.params(), table, config.param_dtype))
    self.layers = _stacked_blocks(config, rngs)
    self.norm = RMSNorm(config, config.width)
    if not config.tied_head:
      self.head = nnx.Param(normal(rngs.params(), table, config.param_dtype))

  def __call__(
    self,
    tokens: Array,
    segments: Array | None,
    at: Array | None,
  ) -> tuple[Array, tuple[Array, Array]]:
    """Hidden states of the columns `at`, and the keys and values of all.

    Returns: `[B, Q, D]` after the final norm; `[layers, B, KV, L, E]` twice.
    """
    config = self.config
    x = self._embedded(tokens)
    view = _make_view(config, tokens, segments)
    graph, layers = nnx.split(self.layers)

    def block(
      x: Array, params: PyTree, view: _View = view
    ) -> tuple[Array, PyTree]:
      return nnx.merge(graph, params)(x, view, None)

    body = rematerialised(config.remat, block)
    scan = functools.partial(jax.lax.scan, body, unroll=config.unrolled)
    if at is None or not config.unrolled:
      x, kv = scan(x, layers)
      return self.norm(_columns(x, at)), kv
    # The last block needs the keys and values of all tokens, but no more.
    x, kv = scan(x, jax.tree.map(lambda a: a[:-1], layers))
    x, kv_end = block(x, jax.tree.map(lambda a: a[-1], layers), view.at(at))
    kv = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), kv, kv_end)
    return self.norm(x), kv

  def step(self, tokens: Array, cache: KVCache) -> tuple[Array, KVCache]:
    """Hidden states `[B, D]` of a further token per row; the longer cache."""
    x = self._embedded(tokens[:, None])
    view, length = _step_view(self.config, cache), cache.length
    graph, layers = nnx.split(self.layers)

    def body(
      carry: tuple[Array, Array, Array], layer: tuple[PyTree, Array]
    ) -> tuple[tuple[Array, Array, Array], None]:
      x, k, v = carry
      params, number = layer
      store = BlockCache(k, v, number, length)
      x, store = nnx.merge(graph, params)(x, view, store)
      return (x, store.k, store.v), None

    numbers = jnp.arange(self.config.num_layers)
    (x, k, v), _ = jax.lax.scan(body, (x, cache.k, cache.v), (layers, numbers))
    return self.norm(x)[:, 0], KVCache(k, v, length + 1)

  def _embedded(self, tokens: Array) -> Array:
    """`[B, L]` -> `[B, L, D]`."""
    x = self.embed[...][tokens].astype(self.config.dtype)
    # By way of the table's own layout, so that rows travel and no table does.
    x = constrain(x, 'data_rows', None, 'embed')
    x = constrain(x, 'rows', None, 'width')
    return x

  def logits(self, hidden: Array) -> Array:
    """`[..., D]` -> `[..., V]` float32."""
    table = self.embed if self.config.tied_head else self.head
    out = jnp.einsum(
      '...d,vd->...v',
      hidden,
      table[...].astype(hidden.dtype),
      preferred_element_type=jnp.float32,
    )
    return constrain(out, 'rows', *[None] * (out.ndim - 2), 'vocab')


def _stacked_blocks(config: Config, rngs: nnx.Rngs) -> Block:
  @nnx.split_rngs(splits=config.num_layers)
  @nnx.vmap
  def make(rngs: nnx.Rngs) -> Block:
    return Block(config, rngs)

  return make(rngs)


def _make_view(config: Config, tokens: Array, segments: Array | None) -> _View:
  positions = jnp.arange(tokens.shape[1])[None]  # [1, L]
  if segments is not None:
    segments = segments.astype(jnp.int32)
    positions = rotary.segment_positions(segments)
  tables = rotary.table(config.head_dim, config.rope_base, tokens.shape[1])
  cos, sin = (t[positions[:, None]] for t in tables)
  return _View(cos, sin, attention.Context(segments))


def _step_view(config: Config, cache: KVCache) -> _View:
  """For one new token per row, which is written to column `length`."""
  length = cache.length[:, None]
  tables = rotary.table(config.head_dim, config.rope_base, cache.columns)
  cos, sin = (t[length[:, None]] for t in tables)
  visible = jnp.arange(cache.columns)[None] <= length
  return _View(cos, sin, attention.Context(None, past=visible))


@functools.cache
def _graph(config: Config) -> Any:
  """The module's structure without its arrays."""
  return nnx.split(nnx.eval_shape(lambda: Transformer(config, nnx.Rngs(0))))[0]


def init(config: Config, key: Array) -> Params:
  """See `interface.Model`."""
  return nnx.to_pure_dict(nnx.state(Transformer(config, nnx.Rngs(key))))


def init_cache(config: Config, rows: int, columns: int) -> KVCache:
  """See `interface.Model`."""
  stack = (config.num_layers, rows, cache_heads(config))

  def empty(*shape: int) -> Array:
    zeros = jnp.zeros((*stack, *shape), config.cache_dtype)
    return constrain(zeros, 'layers', 'rows', 'kv_heads', None, None)

  return KVCache(
    k=empty(config.head_dim, columns),
    v=empty(columns, config.head_dim),
    length=constrain(jnp.zeros(rows, jnp.int32), 'rows'),
  )


def forward(
  config: Config,
  params: Params,
  tokens: Array,
  segments: Array | None = None,
  *,
  at: Array | None = None,
) -> Array:
  """See `interface.Model`.

  In an unrolled model the last block skips the columns that are not wanted,
  which for two layers is nearly half of the work.
  """
  model = nnx.merge(_graph(config), params)
  return model(tokens, segments, at)[0]


def prefill(
  config: Config, params: Params, tokens: Array, lengths: Array
) -> tuple[Array, KVCache]:
  """See `interface.Model`."""
  last = jnp.maximum(lengths - 1, 0)[:, None]
  model = nnx.merge(_graph(config), params)
  hidden, (k, v) = model(tokens, None, last)
  k, v = (x.astype(config.cache_dtype) for x in (k, v))
  return hidden[:, 0], KVCache(jnp.swapaxes(k, -1, -2), v, lengths)


def decode(
  config: Config, params: Params, tokens: Array, cache: KVCache
) -> tuple[Array, KVCache]:
  """See `interface.Model`."""
  return nnx.merge(_graph(config), params).step(tokens, cache)


def logits(config: Config, params: Params, hidden: Array) -> Array:
  """See `interface.Model`."""
  return nnx.merge(_graph(config), params).logits(hidden)


# ---- what a model's own file is made of ----

PARAM_AXES: Mapping[tuple[str, ...], tuple[str | None, ...]] = {
  ('embed',): ('vocab', 'embed'),
  ('head',): ('vocab', 'embed'),
  ('q_proj', 'kernel'): ('embed', 'heads'),
  ('q_proj', 'bias'): ('heads',),
  ('k_proj', 'kernel'): ('embed', 'kv_heads'),
  ('k_proj', 'bias'): ('kv_heads',),
  ('v_proj', 'kernel'): ('embed', 'kv_heads'),
  ('v_proj', 'bias'): ('kv_heads',),
  ('o_proj', 'kernel'): ('heads', 'embed'),
  ('gate_proj', 'kernel'): ('embed', 'ff'),
  ('up_proj', 'kernel'): ('embed', 'ff'),
  ('down_proj', 'kernel'): ('ff', 'embed'),
  ('scale',): (None,),
}
HF_NAMES = {
  'embed': 'model.embed_tokens.weight',
  **{
    f'layers/{ours}': f'model.layers.{{layer}}.{theirs}'
    for ours, theirs in {
      'attention_norm/scale': 'input_layernorm.weight',
      'attention/q_proj/kernel': 'self_attn.q_proj.weight',
      'attention/q_proj/bias': 'self_attn.q_proj.bias',
      'attention/k_proj/kernel': 'self_attn.k_proj.weight',
      'attention/k_proj/bias': 'self_attn.k_proj.bias',
      'attention/v_proj/kernel': 'self_attn.v_proj.weight',
      'attention/v_proj/bias': 'self_attn.v_proj.bias',
      'attention/o_proj/kernel': 'self_attn.o_proj.weight',
      'attention/q_norm/scale': 'self_attn.q_norm.weight',
      'attention/k_norm/scale': 'self_attn.k_norm.weight',
      'mlp_norm/scale': 'post_attention_layernorm.weight',
      'mlp/gate_proj/kernel': 'mlp.gate_proj.weight',
      'mlp/up_proj/kernel': 'mlp.up_proj.weight',
      'mlp/down_proj/kernel': 'mlp.down_proj.weight',
    }.items()
  },
  'norm/scale': 'model.norm.weight',
  'head': 'lm_head.weight',
}
HF_FIELDS = {
  'vocab_size': 'vocab_size',
  'width': 'hidden_size',
  'ff_width': 'intermediate_size',
  'num_layers': 'num_hidden_layers',
  'num_heads': 'num_attention_heads',
  'num_kv_heads': 'num_key_value_heads',
  'head_dim': 'head_dim',
  'rope_base': 'rope_theta',
  'norm_eps': 'rms_norm_eps',
  'tied_head': 'tie_word_embeddings',
}


def architecture(
  name: str,
  presets: Mapping[str, Config],
  *,
  hub_prefix: str,
  hf_class: str,
  hf_defaults: Mapping[str, Any],
  hf_expected: Mapping[str, Any],
  options: Mapping[str, Any],
) -> Architecture:
  """A model that is this transformer with some options; see the record."""
  return Architecture(
    name=name,
    presets=presets,
    hub_prefix=hub_prefix,
    init=init,
    init_cache=init_cache,
    forward=forward,
    prefill=prefill,
    decode=decode,
    logits=logits,
    param_axes=PARAM_AXES,
    hf_class=hf_class,
    hf_names=HF_NAMES,
    hf_fields=HF_FIELDS,
    hf_defaults=hf_defaults,
    hf_expected={'hidden_act': 'silu', **hf_expected},
    options=options,
  )
