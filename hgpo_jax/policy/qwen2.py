"""Qwen2.5 in Flax NNX: tokens in, hidden states and logits out.

The architecture is Qwen2's (Yang et al. 2024, https://arxiv.org/abs/2407.10671,
sec. 2.2; sizes of Qwen2.5: https://arxiv.org/abs/2412.15115, table 1 and the
released `config.json` files): RMSNorm before each half of a block, rotary
positions, grouped-query attention with biases on Q, K and V alone, SwiGLU, and
a head that is tied to the embedding in the small sizes.

The parameters of all blocks are stacked along axis 0 and scanned, so that
compile time does not grow with depth. The module is wrapped in pure functions
(`init_params`, `forward`, `prefill`, `logits`) over a plain nested dict of
arrays; nothing else in the code base sees NNX.

Axes: B rows, L tokens of this call, Q the last of them whose hidden states are
wanted, S cache slots, N query heads, KV key heads, G = N / KV, H head
dimension, D width, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

Params = dict[str, Any]  # nested dict of arrays; leaves of blocks are stacked

INIT_STD = 0.02  # of every matrix, as in the released models
SHALLOW = 8  # blocks; in deeper models skipping work in one saves too little
MASKED = -1e30  # finite, so that a row without any valid key gives no NaN


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


CONFIGS = {
  'tiny': Config(1024, 64, 256, 2, 4, 2, 16, dtype='float32'),
  '0.5b': Config(151_936, 896, 4_864, 24, 14, 2, 64),
  '1.5b': Config(151_936, 1_536, 8_960, 28, 12, 2, 128),
  '3b': Config(151_936, 2_048, 11_008, 36, 16, 2, 128),
  '7b': Config(152_064, 3_584, 18_944, 28, 28, 4, 128, tied_head=False),
}


@flax.struct.dataclass
class KVCache:
  """Keys and values of the tokens seen so far.

  All rows write the same slot, since rows are padded on the left.

  Attributes:
    k: `[layers, B, KV, S, H]` keys, rotated.
    v: `[layers, B, KV, S, H]` values.
    valid: `[B, S]` bool, False on padding and on slots not yet written.
    next: `[]` int32, the slot that the next token is written to.
  """

  k: Array
  v: Array
  valid: Array
  next: Array


@flax.struct.dataclass
class _View:
  """What every block needs to know about positions; computed once a call.

  Attributes:
    cos, sin: `[B, 1, L, H/2]` float32, rotary tables of the tokens.
    bias: `[B, 1, 1, Q, L]` float32, 0 where a query may see a new token and
      `MASKED` elsewhere.
    past_bias: `[B, 1, 1, 1, S]` float32, the same for cached tokens.
  """

  cos: Array
  sin: Array
  bias: Array
  past_bias: Array | None


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
  """x @ kernel + bias, over all leading axes of x."""

  def __init__(
    self,
    config: Config,
    inputs: int,
    outputs: int,
    rngs: nnx.Rngs,
    bias: bool = False,
  ):
    normal = nnx.initializers.normal(INIT_STD)
    shape = (inputs, outputs)
    self.kernel = nnx.Param(normal(rngs.params(), shape, config.param_dtype))
    if bias:
      self.bias = nnx.Param(jnp.zeros(outputs, config.param_dtype))
    self.has_bias = bias

  def __call__(self, x: Array) -> Array:
    # Flat rows: for more axes XLA's CPU compiler writes a transposed copy of
    # the activations to form the kernel's gradient, which doubles the time.
    flat = x.reshape(-1, x.shape[-1])
    y = flat @ self.kernel[...].astype(x.dtype)
    if self.has_bias:
      y += self.bias[...].astype(x.dtype)
    return y.reshape(*x.shape[:-1], -1)


def _rotate(x: Array, cos: Array, sin: Array) -> Array:
  """Turns the pairs (x_i, x_{i+H/2}) of `[B, heads, L, H]` by their angles."""
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return turned.astype(x.dtype)


class Attention(nnx.Module):
  """Grouped-query attention over the cached and the new tokens."""

  def __init__(self, config: Config, rngs: nnx.Rngs):
    heads = config.num_heads * config.head_dim
    kv_heads = config.num_kv_heads * config.head_dim
    self.kv_heads, self.head_dim = config.num_kv_heads, config.head_dim
    self.q_proj = Linear(config, config.width, heads, rngs, bias=True)
    self.k_proj = Linear(config, config.width, kv_heads, rngs, bias=True)
    self.v_proj = Linear(config, config.width, kv_heads, rngs, bias=True)
    self.o_proj = Linear(config, heads, config.width, rngs)

  def __call__(
    self, x: Array, view: _View, past: tuple[Array, Array] | None
  ) -> tuple[Array, tuple[Array, Array]]:
    """`x [B, L, D]` -> output `[B, Q, D]`, new keys, values `[B, KV, L, H]`."""
    queries = view.bias.shape[-2]
    q = self._heads(self.q_proj(x[:, -queries:]))  # [B, N, Q, H]
    k = self._heads(self.k_proj(x))  # [B, KV, L, H]
    v = self._heads(self.v_proj(x))
    q = _rotate(q, view.cos[..., -queries:, :], view.sin[..., -queries:, :])
    k = _rotate(k, view.cos, view.sin)
    out = self._attend(q * self.head_dim**-0.5, k, v, view, past)
    out = jnp.swapaxes(out, 1, 2).reshape(*out.shape[:1], queries, -1)
    return self.o_proj(out), (k, v)

  def _heads(self, x: Array) -> Array:
    x = x.reshape(*x.shape[:2], -1, self.head_dim)
    return jnp.swapaxes(x, 1, 2)

  def _attend(
    self,
    q: Array,
    k: Array,
    v: Array,
    view: _View,
    past: tuple[Array, Array] | None,
  ) -> Array:
    """Softmax over the cached and the new tokens: `[B, N, Q, H]`.

    The queries of all heads that share a key head form one tall matrix. Cached
    and new tokens stay apart up to the sums, so that no cache is copied, and
    weights are divided by their sum last, on the small output.
    """
    batch, heads, queries, size = q.shape
    q = q.reshape(batch, self.kv_heads, -1, size)
    sources = [(k, v, view.bias)]
    if past is not None and view.past_bias is not None:
      sources.append((*past, view.past_bias))
    scores = [_scores(q, k, bias) for k, _, bias in sources]
    tops = [jnp.max(s, axis=-1, keepdims=True) for s in scores]
    top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, tops))
    out, total = jnp.zeros_like(q), jnp.zeros_like(top)
    for s, (_, v, _) in zip(scores, sources, strict=True):
      weights = jnp.exp(s - top)
      out += weights.astype(v.dtype) @ v
      total += jnp.sum(weights, axis=-1, keepdims=True)
    out = (out / total).astype(v.dtype)
    return out.reshape(batch, heads, queries, size)


def _scores(q: Array, k: Array, bias: Array) -> Array:
  """`q [B, KV, G*Q, H]`, `k [B, KV, S, H]` -> float32 `[B, KV, G*Q, S]`."""
  scores = jnp.matmul(
    q, jnp.swapaxes(k, -1, -2), preferred_element_type=jnp.float32
  )
  per_query = scores.reshape(*q.shape[:2], -1, *bias.shape[-2:])
  return (per_query + bias).reshape(scores.shape)


class MLP(nnx.Module):
  """SwiGLU: down(silu(gate(x)) * up(x))."""

  def __init__(self, config: Config, rngs: nnx.Rngs):
    self.gate_proj = Linear(config, config.width, config.ff_width, rngs)
    self.up_proj = Linear(config, config.width, config.ff_width, rngs)
    self.down_proj = Linear(config, config.ff_width, config.width, rngs)

  def __call__(self, x: Array) -> Array:
    return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nnx.Module):
  """One layer: attention and SwiGLU, each behind a norm and a residual."""

  def __init__(self, config: Config, rngs: nnx.Rngs):
    self.attention_norm = RMSNorm(config)
    self.attention = Attention(config, rngs)
    self.mlp_norm = RMSNorm(config)
    self.mlp = MLP(config, rngs)

  def __call__(
    self, x: Array, view: _View, past: tuple[Array, Array] | None
  ) -> tuple[Array, tuple[Array, Array]]:
    """`x [B, L, D]` -> `[B, Q, D]` and this layer's new keys and values."""
    out, kv = self.attention(self.attention_norm(x), view, past)
    x = x[:, -out.shape[1] :] + out
    return x + self.mlp(self.mlp_norm(x)), kv


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
    valid: Array,
    cache: KVCache | None = None,
    last: int | None = None,
  ) -> tuple[Array, tuple[Array, Array]]:
    """Hidden states of the last `last` tokens, and the new keys and values.

    Returns: `[B, Q, D]` after the final norm; `[layers, B, KV, L, H]` twice.
    """
    config = self.config
    x = self.embed[...][tokens].astype(config.dtype)
    view = _make_view(config, valid, cache)
    graph, stacked = nnx.split(self.layers)
    layers = (stacked, None if cache is None else (cache.k, cache.v))

    def block(x: Array, layer: Any, view: _View = view) -> tuple[Array, Any]:
      params, past = layer
      return nnx.merge(graph, params)(x, view, past)

    last = last or tokens.shape[1]
    if last == tokens.shape[1] or config.num_layers > SHALLOW:
      x, kv = jax.lax.scan(block, x, layers)
      return self.norm(x[:, -last:]), kv
    # The last block needs the keys and values of all tokens, but no more.
    x, kv = jax.lax.scan(block, x, jax.tree.map(lambda a: a[:-1], layers))
    tail = dataclasses.replace(view, bias=view.bias[..., -last:, :])
    x, kv_end = block(x, jax.tree.map(lambda a: a[-1], layers), tail)
    kv = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), kv, kv_end)
    return self.norm(x), kv

  def logits(self, hidden: Array) -> Array:
    table = self.embed if self.config.tied_head else self.head
    return jnp.einsum(
      '...d,vd->...v',
      hidden,
      table[...].astype(hidden.dtype),
      preferred_element_type=jnp.float32,
    )


def _stacked_blocks(config: Config, rngs: nnx.Rngs) -> Block:
  @nnx.split_rngs(splits=config.num_layers)
  @nnx.vmap
  def make(rngs: nnx.Rngs) -> Block:
    return Block(config, rngs)

  return make(rngs)


def _make_view(config: Config, valid: Array, cache: KVCache | None) -> _View:
  length = valid.shape[1]
  positions = jnp.cumsum(valid, axis=1) - 1  # [B, L]
  if cache is None:
    slots, past_bias = 0, None
  else:
    slots = cache.valid.shape[1]
    positions += jnp.sum(cache.valid, axis=1, keepdims=True)
    past_bias = _bias(cache.valid[:, None, None, None])
  cos, sin = _rotary_table(config, slots + length)
  positions = jnp.maximum(positions, 0)[:, None]  # [B, 1, L]
  causal = jnp.tril(jnp.ones((length, length), bool))
  bias = _bias((causal & valid[:, None, :])[:, None, None])
  return _View(cos[positions], sin[positions], bias, past_bias)


def _bias(seen: Array) -> Array:
  return jnp.where(seen, 0.0, MASKED)


def _rotary_table(config: Config, length: int) -> tuple[Array, Array]:
  """Cosines and sines `[length, H/2]` of every position.

  A constant, so that XLA does not compute sines anew for each head and use.
  """
  half = config.head_dim // 2
  frequencies = config.rope_base ** -(np.arange(half) / half)
  angles = np.arange(length)[:, None] * frequencies
  return jnp.float32(np.cos(angles)), jnp.float32(np.sin(angles))


@functools.cache
def _graph(config: Config) -> Any:
  """The module's structure without its arrays."""
  return nnx.split(nnx.eval_shape(lambda: Qwen2(config, nnx.Rngs(0))))[0]


def init_params(config: Config, key: Array) -> Params:
  """Random parameters: matrices normal(0.02), norms 1, biases 0."""
  return nnx.to_pure_dict(nnx.state(Qwen2(config, nnx.Rngs(key))))


def init_cache(config: Config, batch: int, slots: int) -> KVCache:
  """An empty cache for `batch` rows of at most `slots` tokens."""
  shape = (
    config.num_layers,
    batch,
    config.num_kv_heads,
    slots,
    config.head_dim,
  )
  zeros = jnp.zeros(shape, config.dtype)
  return KVCache(
    k=zeros,
    v=zeros,
    valid=jnp.zeros((batch, slots), bool),
    next=jnp.zeros((), jnp.int32),
  )


def forward(
  config: Config,
  params: Params,
  tokens: Array,
  valid: Array,
  cache: KVCache | None = None,
  *,
  last: int | None = None,
) -> tuple[Array, KVCache | None]:
  """Runs the model over `tokens`, after those in the cache if there is one.

  Rows may be padded anywhere: positions count valid tokens alone and padding
  is seen by no valid token. Slots beyond the cache's end are the caller's
  mistake and cannot be detected under jit (the write is clamped).

  Args:
    config: the model's size.
    params: of `init_params` or of a checkpoint.
    tokens: `[B, L]` int32.
    valid: `[B, L]` bool, False on padding.
    cache: the tokens before these, if any.
    last: how many hidden states, counted from the right, are wanted; None for
      all. In a shallow model the last block then skips the other columns,
      which for two layers is nearly half of the work.

  Returns: hidden states `[B, L or last, D]`, ready for `logits`, and the cache
    with these tokens added (None if none was given).
  """
  model = nnx.merge(_graph(config), params)
  hidden, kv = model(tokens, valid, cache, last)
  return hidden, None if cache is None else _extended(cache, kv, valid)


def prefill(
  config: Config,
  params: Params,
  tokens: Array,
  valid: Array,
  *,
  slots: int,
  last: int | None = None,
) -> tuple[Array, KVCache]:
  """As `forward` with an empty cache of `slots`, but not attending to it."""
  hidden, kv = nnx.merge(_graph(config), params)(tokens, valid, None, last)
  empty = init_cache(config, tokens.shape[0], slots)
  return hidden, _extended(empty, kv, valid)


def _extended(cache: KVCache, kv: tuple[Array, Array], valid: Array) -> KVCache:
  update = functools.partial(
    jax.lax.dynamic_update_slice_in_dim, start_index=cache.next
  )
  return KVCache(
    k=update(cache.k, kv[0], axis=3),
    v=update(cache.v, kv[1], axis=3),
    valid=update(cache.valid, valid, axis=1),
    next=cache.next + valid.shape[1],
  )


def logits(config: Config, params: Params, hidden: Array) -> Array:
  """Hidden states `[..., D]` -> logits `[..., V]`, always float32."""
  return nnx.merge(_graph(config), params).logits(hidden)
