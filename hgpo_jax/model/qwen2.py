"""Qwen2.5 in Flax NNX: tokens in, hidden states and logits out.

The architecture is Qwen2's (Yang et al. 2024, https://arxiv.org/abs/2407.10671,
sec. 2.2; sizes of Qwen2.5: https://arxiv.org/abs/2412.15115, table 1 and the
released `config.json` files): RMSNorm before each half of a block, rotary
positions, grouped-query attention with biases on Q, K and V alone, SwiGLU, and
a head that is tied to the embedding in the small sizes.

The parameters of all blocks are stacked along axis 0 and scanned, so that
compile time does not grow with depth. The module is wrapped in pure functions
(`init_params`, `forward`, `prefill`, `decode`, `logits`) over a plain nested
dict of arrays; nothing else in the code base sees NNX.

Axes: B rows, L tokens of this call, Q of them whose hidden states are wanted,
S cache slots, N query heads, KV key heads, H head dimension, D width, F
feed-forward width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from hgpo_jax.model import attention, rotary
from hgpo_jax.model.cache import BlockCache, KVCache, pieces
from hgpo_jax.model.sharding import axis_size, constrain

Params = dict[str, Any]  # nested dict of arrays; leaves of blocks are stacked

INIT_STD = 0.02  # of every matrix, as in the released models
LINEARS = (
  'q_proj',
  'k_proj',
  'v_proj',
  'o_proj',
  'gate_proj',
  'up_proj',
  'down_proj',
)
# Blocks of a model that is compiled unrolled, which spares a copy of each
# block's params, and whose last block skips the columns that nobody wants; in
# deeper ones the program would grow, and one block's work is too little.
SHALLOW = 8

# What the backward pass finds in memory; the rest is computed again.
REMAT: dict[str, Any] = {
  'none': None,  # everything is kept
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  'full': jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class Lora:
  """Low-rank adapters (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

  A target's kernel W acts as W + (alpha / rank) A B; A `[in, rank]` starts at
  random, B `[rank, out]` at zero.

  Attributes:
    rank: columns of A.
    alpha: scale.
    targets: names of the linear layers that get adapters.
  """

  rank: int
  alpha: float
  targets: tuple[str, ...] = LINEARS

  def __post_init__(self) -> None:
    if self.rank < 1 or not set(self.targets) <= set(LINEARS):
      raise ValueError(
        f'lora rank={self.rank}, targets={self.targets}: expected a rank of at '
        f'least 1 and targets among {LINEARS}.'
      )


@dataclasses.dataclass(frozen=True)
class Config:
  """One size of the model; hashable, so that it can be static under jit.

  Attributes:
    vocab_size: V, rows of the embedding (at least the tokenizer's size).
    width: D.
    ff_width: F.
    num_layers: blocks.
    num_heads: N, a multiple of `num_kv_heads`.
    num_kv_heads: KV.
    head_dim: H, even.
    rope_base: base of the rotary frequencies.
    norm_eps: added to the mean square in RMSNorm.
    tied_head: whether the embedding is the head's matrix too.
    dtype: name of the type of activations and of matrix products.
    param_dtype: name of the type in which parameters are stored.
    cache_dtype: name of the type of cached keys and values.
    remat: what a backward pass keeps, a name in `REMAT`.
    attention: a name in `attention.IMPLEMENTATIONS`, or 'auto'.
    lora: adapters that are trained instead of the params; None for none.
  """

  vocab_size: int
  width: int
  ff_width: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  rope_base: float = 1_000_000.0
  norm_eps: float = 1e-6
  tied_head: bool = True
  dtype: str = 'bfloat16'
  param_dtype: str = 'float32'
  cache_dtype: str = 'bfloat16'
  remat: str = 'none'
  attention: str = 'auto'
  lora: Lora | None = None

  def __post_init__(self) -> None:
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads} is no multiple of num_kv_heads='
        f'{self.num_kv_heads}: each key head serves equally many query heads.'
      )
    if self.head_dim % 2:
      raise ValueError(
        f'head_dim={self.head_dim} is odd: rotary positions turn pairs.'
      )
    if self.remat not in REMAT:
      raise ValueError(f'remat={self.remat!r}; expected one of {list(REMAT)}.')


def float32(config: Config) -> Config:
  """The same model, computed and cached in float32."""
  return dataclasses.replace(config, dtype='float32', cache_dtype='float32')


CONFIGS = {
  'tiny': float32(Config(1024, 64, 256, 2, 4, 2, 16)),
  'small': float32(Config(4096, 256, 1024, 4, 4, 2, 64)),
  '0.5b': Config(151_936, 896, 4_864, 24, 14, 2, 64),
  '1.5b': Config(151_936, 1_536, 8_960, 28, 12, 2, 128),
  '3b': Config(151_936, 2_048, 11_008, 36, 16, 2, 128),
  '7b': Config(152_064, 3_584, 18_944, 28, 28, 4, 128, tied_head=False),
}


@flax.struct.dataclass
class _View:
  """What every block needs to know about positions; computed once a call.

  Attributes:
    cos, sin: `[B or 1, 1, L, H/2]` float32, rotary tables of the tokens.
    context: who sees whom.
  """

  cos: Array
  sin: Array
  context: attention.Context

  def at(self, columns: Array | None) -> _View:
    """The same view with queries at `columns [B, Q]` only."""
    context = dataclasses.replace(self.context, at=columns)
    return dataclasses.replace(self, context=context)


Blocks = tuple[Params, ...]  # the params of each block by itself


class RMSNorm(nnx.Module):
  """x / rms(x) * scale, the mean square taken in float32."""

  def __init__(self, config: Config):
    self.eps = config.norm_eps
    self.scale = nnx.Param(jnp.ones(config.width, config.param_dtype))

  def __call__(self, x: Array) -> Array:
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(x32 * x32, axis=-1, keepdims=True)
    normed = x32 * jax.lax.rsqrt(mean_square + self.eps)
    return normed.astype(x.dtype) * self.scale[...].astype(x.dtype)


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
    normal = nnx.initializers.normal(INIT_STD)
    shape, dtype = (inputs, outputs), config.param_dtype
    self.kernel = nnx.Param(normal(rngs.params(), shape, dtype))
    self.has_bias = bias
    if bias:
      self.bias = nnx.Param(jnp.zeros(outputs, dtype))
    lora = config.lora
    self.lora = lora if lora and name in lora.targets else None
    if self.lora:
      scaled = nnx.initializers.normal(inputs**-0.5)
      shape = (inputs, self.lora.rank)
      # Adapters are what is trained, so they are kept exactly.
      self.lora_a = nnx.Param(scaled(rngs.params(), shape, jnp.float32))
      self.lora_b = nnx.Param(jnp.zeros((self.lora.rank, outputs)))

  def __call__(self, x: Array) -> Array:
    # Flat rows: for more axes XLA's CPU compiler writes a transposed copy of
    # the activations to form the kernel's gradient, which doubles the time.
    flat = x.reshape(-1, x.shape[-1])
    y = flat @ self.kernel[...].astype(x.dtype)
    if self.has_bias:
      y += self.bias[...].astype(x.dtype)
    if self.lora:
      low = flat @ self.lora_a[...].astype(x.dtype)
      scale = self.lora.alpha / self.lora.rank
      y += scale * (low @ self.lora_b[...].astype(x.dtype))
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
    self.config = config
    self.q_proj = Linear(config, 'q_proj', width, heads, rngs, bias=True)
    self.k_proj = Linear(config, 'k_proj', width, kv_heads, rngs, bias=True)
    self.v_proj = Linear(config, 'v_proj', width, kv_heads, rngs, bias=True)
    self.o_proj = Linear(config, 'o_proj', heads, width, rngs)

  def __call__(
    self, x: Array, view: _View, store: BlockCache | None
  ) -> tuple[Array, Any]:
    """`x [B, L, D]` -> output `[B, Q, D]`, and the store with what is new.

    Without a store the new keys and values `[B, KV, L, H]` take its place.
    """
    at = view.context.at
    q = self._heads(self.q_proj(_columns(x, at)))  # [B, N, Q, H]
    k = self._heads(self.k_proj(x))  # [B, KV, L, H]
    v = self._heads(self.v_proj(x))
    q = rotary.rotate(q, *_tables(view, at))
    k = rotary.rotate(k, view.cos, view.sin)
    k, v = (self._stored(y) for y in (k, v))
    q = constrain(q, 'rows', 'heads', None, None)
    new: Any = (k, v)
    if store is None:
      attend = attention.choose(self.config.attention, self.config.dtype)
      out = attend(q, k, v, view.context)
    else:
      new = store.add(k, v)
      k, v = new.mine()
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
    inner = jax.nn.silu(self.gate_proj(x)) * self.up_proj(x)
    return self.down_proj(constrain(inner, 'rows', None, 'ff'))


class Block(nnx.Module):
  """One layer: attention and SwiGLU, each behind a norm and a residual."""

  def __init__(self, config: Config, rngs: nnx.Rngs):
    self.attention_norm = RMSNorm(config)
    self.attention = Attention(config, rngs)
    self.mlp_norm = RMSNorm(config)
    self.mlp = MLP(config, rngs)

  def __call__(
    self, x: Array, view: _View, store: BlockCache | None
  ) -> tuple[Array, Any]:
    """`x [B, L, D]` -> `[B, Q, D]`, and what `Attention` gives beside it."""
    out, kv = self.attention(self.attention_norm(x), view, store)
    x = _columns(x, view.context.at) + out
    x = x + self.mlp(self.mlp_norm(x))
    return constrain(x, 'rows', None, 'width'), kv


class Qwen2(nnx.Module):
  """The whole model; `layers` holds every block, stacked along axis 0."""

  def __init__(self, config: Config, rngs: nnx.Rngs):
    self.config = config
    normal = nnx.initializers.normal(INIT_STD)
    table = (config.vocab_size, config.width)
    self.embed = nnx.Param(normal(rngs.params(), table, config.param_dtype))
    self.layers = _stacked_blocks(config, rngs)
    self.norm = RMSNorm(config)
    if not config.tied_head:
      self.head = nnx.Param(normal(rngs.params(), table, config.param_dtype))

  def __call__(
    self,
    tokens: Array,
    segments: Array | None,
    at: Array | None,
  ) -> tuple[Array, tuple[Array, Array]]:
    """Hidden states of the columns `at`, and the keys and values of all.

    Returns: `[B, Q, D]` after the final norm; `[layers, B, KV, L, H]` twice.
    """
    config = self.config
    x = self._embedded(tokens)
    view = _make_view(config, tokens, segments)
    graph, layers = nnx.split(self.layers)

    def block(x: Array, params: Any, view: _View = view) -> tuple[Array, Any]:
      return nnx.merge(graph, params)(x, view, None)

    shallow = config.num_layers <= SHALLOW
    body = _rematerialised(config, block)
    scan = functools.partial(jax.lax.scan, body, unroll=shallow)
    if at is None or not shallow:
      x, kv = scan(x, layers)
      return self.norm(_columns(x, at)), kv
    # The last block needs the keys and values of all tokens, but no more.
    x, kv = scan(x, jax.tree.map(lambda a: a[:-1], layers))
    x, kv_end = block(x, jax.tree.map(lambda a: a[-1], layers), view.at(at))
    kv = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), kv, kv_end)
    return self.norm(x), kv

  def step(
    self, tokens: Array, cache: KVCache, blocks: Blocks | None
  ) -> tuple[Array, KVCache]:
    """Hidden states `[B, D]` of a further token per row; the longer cache."""
    x = self._embedded(tokens[:, None])
    view, length = _step_view(self.config, cache), cache.length
    graph, stacked = nnx.split(self.layers)

    def body(carry: tuple, layer: tuple) -> tuple[tuple, None]:
      x, k, v = carry
      params, number = layer
      store = BlockCache(k, v, number, length)
      x, store = nnx.merge(graph, params)(x, view, store)
      return (x, store.k, store.v), None

    if blocks is None:
      numbers = jnp.arange(self.config.num_layers)
      start = (x, cache.k, cache.v)
      (x, k, v), _ = jax.lax.scan(body, start, (stacked, numbers))
    else:
      k, v = list(cache.k), list(cache.v)
      for i, params in enumerate(blocks):
        (x, k[i], v[i]), _ = body((x, k[i], v[i]), (params, None))
      k, v = tuple(k), tuple(v)
    return self.norm(x)[:, 0], KVCache(k, v, length + 1)

  def _embedded(self, tokens: Array) -> Array:
    """`[B, L]` -> `[B, L, D]`."""
    x = self.embed[...][tokens].astype(self.config.dtype)
    # By way of the table's own layout, so that rows travel and no table does.
    x = constrain(x, 'data_rows', None, 'embed')
    x = constrain(x, 'rows', None, 'width')
    return x

  def logits(self, hidden: Array) -> Array:
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


def _rematerialised(config: Config, block: Callable) -> Callable:
  if config.remat == 'none':
    return block
  # Inside a scan nothing can be merged with the forward pass anyway.
  return jax.checkpoint(block, policy=REMAT[config.remat], prevent_cse=False)


def _make_view(config: Config, tokens: Array, segments: Array | None) -> _View:
  positions = jnp.arange(tokens.shape[1])[None]  # [1, L]
  if segments is not None:
    segments = segments.astype(jnp.int32)
    positions = rotary.segment_positions(segments)
  tables = rotary.table(config.head_dim, config.rope_base, tokens.shape[1])
  cos, sin = (t[positions[:, None]] for t in tables)
  return _View(cos, sin, attention.Context(segments))


def _step_view(config: Config, cache: KVCache) -> _View:
  """For one new token per row, which is written to slot `length`."""
  length = cache.length[:, None]
  tables = rotary.table(config.head_dim, config.rope_base, cache.slots)
  cos, sin = (t[length[:, None]] for t in tables)
  seen = jnp.arange(cache.slots) <= length
  return _View(cos, sin, attention.Context(None, past=seen))


@functools.cache
def _graph(config: Config) -> Any:
  """The module's structure without its arrays."""
  return nnx.split(nnx.eval_shape(lambda: Qwen2(config, nnx.Rngs(0))))[0]


def init_params(config: Config, key: Array) -> Params:
  """Random parameters: matrices normal(0.02), norms 1, biases 0."""
  return nnx.to_pure_dict(nnx.state(Qwen2(config, nnx.Rngs(key))))


def init_cache(config: Config, rows: int, slots: int) -> KVCache:
  """An empty cache for `rows` rows of at most `slots` tokens."""
  stack = (config.num_layers, rows, cache_heads(config))

  def empty(*shape: int) -> Array:
    zeros = jnp.zeros((*stack, *shape), config.cache_dtype)
    return constrain(zeros, 'layers', 'rows', 'kv_heads', None, None)

  return KVCache(
    k=empty(config.head_dim, slots),
    v=empty(slots, config.head_dim),
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
  """Runs the model over whole rows.

  Args:
    config: the model's size.
    params: of `init_params` or of a checkpoint.
    tokens: `[B, L]` int32.
    segments: `[B, L]` int, ascending along a row: tokens see those of their own
      segment alone and count their position in it; 0 is padding, wherever it
      stands, and is not counted. None: every row is one text from column 0 on,
      and what follows it is seen by nobody.
    at: `[B, Q]` int32, the columns whose hidden states are wanted; None for
      all. In a shallow model the last block then skips the other columns,
      which for two layers is nearly half of the work.

  Returns: hidden states `[B, L or Q, D]`, ready for `logits`.
  """
  model = nnx.merge(_graph(config), params)
  return model(tokens, segments, at)[0]


def prefill(
  config: Config, params: Params, tokens: Array, lengths: Array
) -> tuple[Array, KVCache]:
  """Reads prompts of different lengths, padded on the right.

  Args:
    config: the model's size.
    params: the policy.
    tokens: `[B, P]` int32.
    lengths: `[B]` int32; a row of length 0 is filler.

  Returns: the hidden state `[B, D]` of each row's last token, and a cache of P
    slots.
  """
  last = jnp.maximum(lengths - 1, 0)[:, None]
  model = nnx.merge(_graph(config), params)
  hidden, (k, v) = model(tokens, None, last)
  k, v = (x.astype(config.cache_dtype) for x in (k, v))
  return hidden[:, 0], KVCache(jnp.swapaxes(k, -1, -2), v, lengths)


def unstack(
  config: Config, params: Params, cache: KVCache, slots: int
) -> tuple[Blocks | None, KVCache]:
  """Prepares a loop of `decode` steps over the first `slots` of a cache.

  In a shallow model every block gets arrays of its own. XLA's CPU compiler
  would otherwise copy a block's params and its cache out of the stacked ones
  in every step, which doubles the time of a step; this way it is once a loop.

  Returns: `blocks` and `cache` for `decode`.
  """
  k, v = cache.k[..., :slots], cache.v[..., :slots, :]  # type: ignore[call-overload]
  if config.num_layers > SHALLOW:
    return None, KVCache(k, v, cache.length)
  blocks = pieces(params['layers'], config.num_layers)
  k, v = (pieces(x, config.num_layers) for x in (k, v))
  return blocks, KVCache(k, v, cache.length)


def decode(
  config: Config,
  params: Params,
  tokens: Array,
  cache: KVCache,
  blocks: Blocks | None = None,
) -> tuple[Array, KVCache]:
  """Adds one token per row.

  A token beyond the last slot is lost; under jit nobody can say so.

  Args:
    config: the model's size.
    params: the policy.
    tokens: `[B]` int32.
    cache: what came before.
    blocks: of `unstack`, with its cache.

  Returns: the hidden states `[B, D]` of the tokens, and the longer cache.
  """
  model = nnx.merge(_graph(config), params)
  return model.step(tokens, cache, blocks)


def logits(config: Config, params: Params, hidden: Array) -> Array:
  """Hidden states `[..., D]` -> logits `[..., V]`, always float32."""
  return nnx.merge(_graph(config), params).logits(hidden)
