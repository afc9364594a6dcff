"""What the rest of the code knows of a language model.

A `Model` is passed to whoever computes with one, as a value that is static
under jit: sizes, and pure functions over a nested dict of arrays. What models
of one kind share, whatever their sizes, is an `Architecture`: a new one is a
file that makes it, and an entry in `registry.ARCHITECTURES`. Nothing outside
of these two names a model.

Axes: B rows, L tokens of a row, Q of them whose hidden states are wanted, S
columns of a cache, D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import Array

from hgpo_jax.model.cache import KVCache
from hgpo_jax.model.lora import Lora
from hgpo_jax.model.remat import POLICIES
from hgpo_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Config:
  """One size of a model, and how it is computed; hashable.

  Attributes:
    vocab_size: V, rows of the embedding (at least the tokenizer's size).
    width: D.
    ff_width: columns of the feed-forward half of a block.
    num_layers: blocks.
    num_heads: H, a multiple of `num_kv_heads`.
    num_kv_heads: key heads, each of which serves equally many query heads.
    head_dim: E, size of a head; even.
    rope_base: base of the rotary frequencies.
    norm_eps: added to the mean square in RMSNorm.
    tied_head: whether the embedding is the head's matrix too.
    qkv_bias: whether queries, keys and values have biases.
    qk_norm: whether each head's queries and keys are normed.
    dtype: name of the type of activations and of matrix products.
    param_dtype: name of the type in which parameters are stored.
    cache_dtype: name of the type of cached keys and values.
    remat: what a backward pass keeps, a name in `remat.POLICIES`.
    attention: a name in `attention.IMPLEMENTATIONS`, or 'auto'.
    lora: adapters that are trained instead of the params; None for none.
    init_std: of every matrix at the start, as in the released models.
    max_unrolled: most blocks of a model that is compiled unrolled, see
      `unrolled`.
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
  qkv_bias: bool = False
  qk_norm: bool = False
  dtype: str = 'bfloat16'
  param_dtype: str = 'float32'
  cache_dtype: str = 'bfloat16'
  remat: str = 'none'
  attention: str = 'auto'
  lora: Lora | None = None
  init_std: float = 0.02
  max_unrolled: int = 8

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
    if self.remat not in POLICIES:
      raise ValueError(
        f'remat={self.remat!r}; expected one of {list(POLICIES)}.'
      )

  @property
  def unrolled(self) -> bool:
    """Whether this is a shallow model, compiled block by block.

    XLA's CPU compiler then copies no block's params out of the stacked ones,
    and where few columns are wanted the last block leaves out the others: of
    two layers the gradient of 4 rows of 192 tokens, 32 of them wanted, takes 12
    ms instead of 23. The program of a deep model would grow with its depth, and
    one block's work is too little of it. A decoding step is always scanned:
    unrolled it saves 15 % of itself, some 4 % of an iteration of alfworld_tiny.
    """
    return self.num_layers <= self.max_unrolled


def float32(config: Config) -> Config:
  """The same model, computed and cached in float32."""
  return dataclasses.replace(config, dtype='float32', cache_dtype='float32')


@dataclasses.dataclass(frozen=True, eq=False)  # there is one of each
class Architecture:
  """What models of one kind share; the functions are as `Model` says.

  Params hold `embed [V, D]`, `layers` (each leaf stacked along axis 0),
  `norm/scale [D]`, and `head [V, D]` where it is not tied.

  Attributes:
    name: `model_type` in Hugging Face's `config.json`.
    presets: sizes by name.
    hub_prefix: what stands before a preset's name in the ids of the released
      checkpoints, in lower case.
    init, init_cache, forward, prefill, decode, logits: the methods of
      `Model`, with the config before their other arguments.
    param_axes: last names of a param's path -> its logical axes of
      `sharding.RULES`, without that of the layers.
    hf_class: `architectures` in `config.json`.
    hf_names: path of a param, joined by '/' -> stored name, with `{layer}`
      where there is one per layer. Leaves named `kernel` are stored transposed.
    hf_fields: field of `Config` -> key of `config.json`.
    hf_defaults: what a `config.json` means that leaves these keys out.
    hf_expected: keys that may be left out, but else must have this value,
      because nothing else is implemented.
    options: fields of `Config` that every model of this kind has.
  """

  name: str
  presets: Mapping[str, Config]
  hub_prefix: str
  init: Callable[..., Params]
  init_cache: Callable[..., KVCache]
  forward: Callable[..., Array]
  prefill: Callable[..., tuple[Array, KVCache]]
  decode: Callable[..., tuple[Array, KVCache]]
  logits: Callable[..., Array]
  param_axes: Mapping[tuple[str, ...], tuple[str | None, ...]]
  hf_class: str
  hf_names: Mapping[str, str]
  hf_fields: Mapping[str, str]
  hf_defaults: Mapping[str, Any]
  hf_expected: Mapping[str, Any]
  options: Mapping[str, Any]

  @property
  def linears(self) -> tuple[str, ...]:
    """Names of the linear layers, which may have adapters."""
    return tuple(path[0] for path in self.param_axes if path[1:] == ('kernel',))


@dataclasses.dataclass(frozen=True)
class Model:
  """A language model of one size: hashable, and static under jit.

  Attributes:
    architecture: what computes it.
    config: its size.
  """

  architecture: Architecture
  config: Config

  def __post_init__(self) -> None:
    lora, known = self.config.lora, self.architecture.linears
    if lora and not set(lora.targets) <= set(known):
      raise ValueError(
        f'lora targets={lora.targets}: expected names among {known}, or none '
        'for all.'
      )

  def replace(self, **fields: Any) -> Model:  # of `Config`
    """The same model with other fields of its config."""
    config = dataclasses.replace(self.config, **fields)
    return dataclasses.replace(self, config=config)

  def init(self, key: Array) -> Params:
    """Random parameters: matrices normal(`init_std`), norms 1, biases 0."""
    return self.architecture.init(self.config, key)

  def param_shapes(self) -> Params:
    """Shapes and types in place of the parameters; nothing is computed."""
    return jax.eval_shape(lambda: self.init(jax.random.key(0)))

  def init_cache(self, rows: int, columns: int) -> KVCache:
    """An empty cache for `rows` rows of at most `columns` tokens."""
    return self.architecture.init_cache(self.config, rows, columns)

  def forward(
    self,
    params: Params,
    tokens: Array,
    segments: Array | None = None,
    *,
    at: Array | None = None,
  ) -> Array:
    """Runs the model over whole rows.

    Args:
      params: of `init` or of a checkpoint.
      tokens: `[B, L]` int32.
      segments: `[B, L]` int, ascending along a row: tokens see those of their
        own segment alone and count their position in it; 0 is padding,
        wherever it stands, and is not counted. None: every row is one text
        from column 0 on, and what follows it is seen by nobody.
      at: `[B, Q]` int32, the columns whose hidden states are wanted; None for
        all.

    Returns: hidden states `[B, L or Q, D]`, ready for `logits`.
    """
    return self.architecture.forward(
      self.config, params, tokens, segments, at=at
    )

  def prefill(
    self, params: Params, tokens: Array, lengths: Array
  ) -> tuple[Array, KVCache]:
    """Reads prompts of different lengths, padded on the right.

    Args:
      params: the policy.
      tokens: `[B, L]` int32.
      lengths: `[B]` int32; a row of length 0 is filler.

    Returns: the hidden state `[B, D]` of each row's last token, and a cache of
      L columns.
    """
    return self.architecture.prefill(self.config, params, tokens, lengths)

  def decode(
    self, params: Params, tokens: Array, cache: KVCache
  ) -> tuple[Array, KVCache]:
    """Adds one token per row.

    A token beyond the last column is lost; under jit nobody can report it.

    Args:
      params: the policy.
      tokens: `[B]` int32.
      cache: what came before.

    Returns: the hidden states `[B, D]` of the tokens, and the longer cache.
    """
    return self.architecture.decode(self.config, params, tokens, cache)

  def logits(self, params: Params, hidden: Array) -> Array:
    """Hidden states `[..., D]` -> logits `[..., V]`, always float32."""
    return self.architecture.logits(self.config, params, hidden)
