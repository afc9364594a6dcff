"""Decoding on the device: rows that start and end at different times.

`insert` reads prompts into free rows, `decode_chunk` adds up to a chunk of
tokens to every row; `batcher.py` decides on the host when each is called.
Shapes come from small sets, so that the number of compilations is bounded
whatever prompts arrive.

A prompt's last token is kept out of `insert`: it is the first thing that a row
decodes, so that tokens are drawn in one place. What a row generates depends on
its prompt, its key and its allowed replies, never on the other rows.

Axes: B rows, U prompts read at once, P prompt columns, S columns of the cache,
R columns of a reply, A allowed replies, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from hgpo_jax.model.cache import KVCache
from hgpo_jax.model.interface import Model
from hgpo_jax.model.sharding import constrain
from hgpo_jax.sampler import sampling
from hgpo_jax.types import Params


@dataclasses.dataclass(frozen=True)
class DecodeShapes:
  """The shapes of one run's generation.

  Attributes:
    rows: B, that decode together.
    max_reply: R, the most tokens of a reply, its end-of-turn token included.
    prompt_buckets: values of P, ascending; longer prompts lose their first
      tokens.
    prefill_buckets: values of U, ascending.
    max_choices: A; 0 where no reply is ever limited.
    chunk: most tokens that a row gets before the host looks at it again.
    prefill_rows: prompts that must wait, at least, before they are read while
      other rows decode: reading few at a time wastes the device.
    end_id: the end-of-turn token.
    pad_id: what stands where nothing was generated.
  """

  rows: int
  max_reply: int
  prompt_buckets: tuple[int, ...]
  prefill_buckets: tuple[int, ...]
  max_choices: int
  chunk: int
  prefill_rows: int
  end_id: int
  pad_id: int

  def __post_init__(self) -> None:
    for name in ('prompt_buckets', 'prefill_buckets'):
      value = tuple(sorted(getattr(self, name)))
      object.__setattr__(self, name, value)
      if not value or value[0] < 1:
        raise ValueError(f'{name}={value}: give at least one positive size.')
    for name in ('rows', 'max_reply', 'chunk', 'prefill_rows'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name}={getattr(self, name)}: must be at least 1.')

  @property
  def columns(self) -> int:
    """S."""
    return self.prompt_buckets[-1] + self.max_reply

  @property
  def spans(self) -> tuple[int, ...]:
    """How many of the cache's columns a chunk may look at."""
    return tuple(p + self.max_reply for p in self.prompt_buckets)

  @property
  def copied_columns(self) -> int:
    """Columns that `decode_chunk` copies out of the cache at most."""
    return max((s for s in self.spans if s < self.columns), default=0)

  def max_shapes(self, methods: int) -> int:
    """How often `insert` and `decode_chunk` can be compiled in a run.

    Args:
      methods: ways of sampling that differ not in temperature alone.
    """
    reads = len(self.prompt_buckets) * len(self.prefill_buckets)
    return reads + methods * len(self.spans)


@flax.struct.dataclass
class State:
  """What stands in the rows; given away by each call and got back.

  Attributes:
    cache: keys and values of all tokens but each row's newest.
    newest: `[B]` int32.
    tokens: `[B, R]` int32, what was generated.
    log_probs: `[B, R]` float32 of the scored distribution (see `sampling`).
    position: `[B]` int32, tokens generated.
    limit: `[B]` int32, tokens that may be generated, at most R.
    done: `[B]` bool; True in an empty row.
    keys: `[B, 2]` uint32; the token at position r uses `fold_in(key, r)`.
    choices: `[B, A, R]` int32 as in `sampling.start_choices`.
    open_: `[B, A]` bool, allowed replies that agree so far.
  """

  cache: KVCache
  newest: Array
  tokens: Array
  log_probs: Array
  position: Array
  limit: Array
  done: Array
  keys: Array
  choices: Array
  open_: Array


@flax.struct.dataclass
class NewRows:
  """Rows that start to decode; made on the host.

  Attributes:
    tokens: `[U, P]` int32, different prompts without their last tokens.
    lengths: `[U]` int32; 0 is filler, or a prompt of one token.
    count: `[]` int32, rows that start; the rest of the following is filler.
    rows: `[B]` int32, where; B on filler, which writes nothing.
    source: `[B]` int32, which of the prompts.
    newest: `[B]` int32, the last tokens of the prompts.
    names: `[B, 2]` int32, episode and turn, that the row's key is made of.
    limit: `[B]` int32, as in `State`.
    choices: `[B, A, R]` int32, as in `State`.
  """

  # NumPy's on the host, and JAX's where they are traced.
  tokens: Any
  lengths: Any
  count: Any
  rows: Any
  source: Any
  newest: Any
  names: Any
  limit: Any
  choices: Any


@flax.struct.dataclass
class ChunkResult:
  """What the host needs to know after a chunk; fields as in `State`."""

  tokens: Array
  log_probs: Array
  position: Array
  done: Array


@functools.partial(jax.jit, static_argnames=('model', 'shapes'))
def init_state(model: Model, shapes: DecodeShapes) -> State:
  """A batch of empty rows."""
  rows, reply = shapes.rows, shapes.max_reply
  tokens = jnp.full((rows, reply), shapes.pad_id, jnp.int32)
  choices = jnp.full((rows, shapes.max_choices, reply), -1, jnp.int32)
  return _placed(
    State(
      cache=model.init_cache(rows, shapes.columns),
      newest=jnp.zeros(rows, jnp.int32),
      tokens=tokens,
      log_probs=jnp.zeros(tokens.shape, jnp.float32),
      position=jnp.zeros(rows, jnp.int32),
      limit=jnp.zeros(rows, jnp.int32),
      done=jnp.ones(rows, bool),
      keys=jnp.zeros((rows, 2), jnp.uint32),
      choices=choices,
      open_=sampling.start_choices(choices),
    )
  )


def row_keys(key: Array, names: Array) -> Array:
  """Derives the key of each turn of each episode.

  Args:
    key: `[2]` uint32, the rollout's key, used for nothing else.
    names: `[B, 2]` int32 episode and turn.

  Returns: `[B, 2]` uint32.
  """

  def one(name: Array) -> Array:
    return jax.random.fold_in(jax.random.fold_in(key, name[0]), name[1])

  return jax.vmap(one)(names)


@functools.partial(
  jax.jit, static_argnames=('model', 'pad_id'), donate_argnums=0
)
def insert(
  state: State,
  params: Params,
  new: NewRows,
  key: Array,
  *,
  model: Model,
  pad_id: int,
) -> State:
  """Reads each prompt once and copies it to all rows that it is for.

  Args:
    state: what decodes already; given away.
    params: the policy.
    new: the rows that start.
    key: `[2]` uint32, the rollout's.
    model: the policy's.
    pad_id: what stands where nothing was generated.
  """
  _, fresh = model.prefill(params, new.tokens, new.lengths)

  def copy(i: Array, kv: tuple[Array, Array]) -> tuple[Array, Array]:
    # A row at a time: no temporary is as large as the cache.
    return tuple(
      jax.lax.dynamic_update_slice(
        whole,
        jax.lax.dynamic_slice_in_dim(read, new.source[i], 1, axis=1),
        (0, new.rows[i], 0, 0, 0),
      )
      for whole, read in zip(kv, (fresh.k, fresh.v), strict=True)
    )  # type: ignore[return-value]

  k, v = jax.lax.fori_loop(0, new.count, copy, (state.cache.k, state.cache.v))

  def put(old: Array, value: Array | float) -> Array:
    return old.at[new.rows].set(value, mode='drop')

  length = put(state.cache.length, fresh.length[new.source])
  return _placed(
    State(
      cache=KVCache(k, v, length),
      newest=put(state.newest, new.newest),
      tokens=put(state.tokens, pad_id),
      log_probs=put(state.log_probs, 0.0),
      position=put(state.position, 0),
      limit=put(state.limit, new.limit),
      done=put(state.done, False),
      keys=put(state.keys, row_keys(key, new.names)),
      choices=put(state.choices, new.choices),
      open_=put(state.open_, sampling.start_choices(new.choices)),
    )
  )


@functools.partial(
  jax.jit,
  static_argnames=('model', 'method', 'span', 'chunk', 'end_id'),
  donate_argnums=0,
)
def decode_chunk(
  state: State,
  params: Params,
  temperature: Array | float,
  *,
  model: Model,
  method: sampling.Sampling,
  span: int,
  chunk: int,
  end_id: int,
) -> tuple[State, ChunkResult]:
  """Adds up to `chunk` tokens to every row that is not done.

  Args:
    state: given away.
    params: the policy.
    temperature: positive; traced, so that temperatures share a compilation.
    model: the policy's.
    method: truncation, and whether greedy.
    span: columns of the cache that hold all rows, these tokens included.
    chunk: tokens.
    end_id: the end-of-turn token.
  """
  whole = state.cache

  def step(carry: tuple[Array, State]) -> tuple[Array, State]:
    i, state = carry
    hidden, cache = model.decode(params, state.newest, state.cache)
    # A row that is done stays where it is, inside the cache.
    length = jnp.where(state.done, state.cache.length, cache.length)
    cache = dataclasses.replace(cache, length=length)
    logits = model.logits(params, hidden)
    state = dataclasses.replace(state, cache=cache)
    return i + 1, _draw(state, logits, temperature, method, end_id)

  def unfinished(carry: tuple[Array, State]) -> Array:
    i, state = carry
    return (i < chunk) & ~jnp.all(state.done)

  start = jnp.int32(0), dataclasses.replace(state, cache=whole.first(span))
  _, state = jax.lax.while_loop(unfinished, step, start)
  cache = whole.with_first(state.cache)
  state = _placed(dataclasses.replace(state, cache=cache))
  return state, ChunkResult(
    state.tokens, state.log_probs, state.position, state.done
  )


def _draw(
  state: State,
  logits: Array,
  temperature: Array | float,
  method: sampling.Sampling,
  end_id: int,
) -> State:
  """Draws the next token of every row from its `logits [B, V]`."""
  here, choices = state.position, state.choices
  allowed = None
  if choices.shape[1]:
    allowed = sampling.allowed_tokens(
      choices, state.open_, here, logits.shape[-1]
    )
  scored = sampling.scored_log_probs(logits, temperature, allowed)
  keys = jax.vmap(jax.random.fold_in)(state.keys, here)
  token = sampling.draw(keys, sampling.process(scored, method))
  token = token.astype(jnp.int32)
  log_prob = jnp.take_along_axis(scored, token[:, None], axis=1)[:, 0]
  alive = ~state.done
  rows = jnp.arange(here.size)
  at = jnp.where(alive, here, state.tokens.shape[1])  # out of range: dropped
  position = here + alive
  open_ = state.open_
  if choices.shape[1]:
    open_ = sampling.advance_choices(choices, open_, here, token)
  return dataclasses.replace(
    state,
    newest=jnp.where(alive, token, state.newest),
    tokens=state.tokens.at[rows, at].set(token, mode='drop'),
    log_probs=state.log_probs.at[rows, at].set(log_prob, mode='drop'),
    position=position,
    done=state.done | (token == end_id) | (position >= state.limit),
    open_=open_,
  )


def _placed(state: State) -> State:
  """The same layout after every call, so that nothing is compiled anew."""

  def place(x: Array) -> Array:
    if x.ndim == 5:  # keys and values
      return constrain(x, 'layers', 'rows', 'kv_heads', None, None)
    return constrain(x, 'rows', *[None] * (x.ndim - 1))

  return jax.tree.map(place, state)
