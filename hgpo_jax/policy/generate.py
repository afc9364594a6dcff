"""Prompts -> replies and their log-probs: prefill, then decode until the end.

Shapes come from small sets of buckets, so that the number of compilations is
bounded whatever prompts arrive. A row's reply depends on its prompt, its key
and its allowed replies, never on the other rows.

Axes: B rows, P prompt columns, R columns of a reply, A allowed replies,
D width.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hgpo_jax.policy import qwen2, sampling

Tokens = Sequence[int]

PROMPT_BUCKETS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096)
BATCH_BUCKETS = (8, 32, 128)
CHOICE_BUCKETS = (32, 64, 128, 256)


@dataclasses.dataclass(frozen=True)
class Completions:
  """Replies in the order of their prompts.

  Attributes:
    tokens: `[B, R]` int32, the end-of-turn token included, then `pad_id`.
    log_probs: `[B, R]` float32 of the scored distribution (see `sampling`),
      0 on padding.
    lengths: `[B]` int32, tokens of each reply; R without end-of-turn token
      where the reply was cut off.
  """

  tokens: np.ndarray
  log_probs: np.ndarray
  lengths: np.ndarray


@flax.struct.dataclass
class _Decoding:
  """State of the decode loop after `position` tokens.

  Attributes:
    position: `[]` int32.
    cache: keys and values of all but the newest token.
    tokens: `[B, R]` int32.
    log_probs: `[B, R]` float32.
    done: `[B]` bool.
    open_: `[B, A]` bool, allowed replies that agree so far.
  """

  position: Array
  cache: qwen2.KVCache
  tokens: Array
  log_probs: Array
  done: Array
  open_: Array


@functools.partial(
  jax.jit,
  static_argnames=('config', 'method', 'max_reply', 'end_id', 'pad_id'),
)
def decode(
  params: qwen2.Params,
  tokens: Array,
  valid: Array,
  keys: Array,
  choices: Array,
  temperature: Array | float,
  *,
  config: qwen2.Config,
  method: sampling.Sampling,
  max_reply: int,
  end_id: int,
  pad_id: int,
) -> tuple[Array, Array]:
  """Draws one reply per row; the only function here that is compiled.

  Args:
    params: the policy.
    tokens: `[B, P]` int32, padded on the left.
    valid: `[B, P]` bool; a row without any valid token is filler.
    keys: `[B, 2]` uint32; the token at position r uses `fold_in(key, r)`.
    choices: `[B, A, R]` int32 as in `sampling.start_choices`; A may be 0.
    temperature: positive; traced, so that temperatures share a compilation.
    config: the model's size.
    method: truncation, and whether greedy.
    max_reply: R.
    end_id: the end-of-turn token.
    pad_id: what stands after it.

  Returns: tokens `[B, R]` int32 and log-probs `[B, R]` float32.
  """
  rows = tokens.shape[0]

  def emit(state: _Decoding, hidden: Array) -> _Decoding:
    """Draws the next token of every row from its `hidden [B, D]`."""
    here = state.position
    allowed = sampling.allowed_tokens(
      choices, state.open_, here, config.vocab_size
    )
    scored = sampling.scored_log_probs(
      qwen2.logits(config, params, hidden), temperature, allowed
    )
    row_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, here)
    token = sampling.draw(row_keys, sampling.process(scored, method))
    log_prob = jnp.take_along_axis(scored, token[:, None], axis=1)[:, 0]
    token = jnp.where(state.done, pad_id, token).astype(jnp.int32)
    log_prob = jnp.where(state.done, 0.0, log_prob)
    return dataclasses.replace(
      state,
      position=here + 1,
      tokens=state.tokens.at[:, here].set(token),
      log_probs=state.log_probs.at[:, here].set(log_prob),
      done=state.done | (token == end_id),
      open_=sampling.advance_choices(choices, state.open_, here, token),
    )

  def step(state: _Decoding) -> _Decoding:
    newest = state.tokens[:, state.position - 1][:, None]
    hidden, cache = qwen2.forward(
      config, params, newest, jnp.ones((rows, 1), bool), state.cache
    )
    assert cache is not None  # one was given
    return emit(dataclasses.replace(state, cache=cache), hidden[:, 0])

  def unfinished(state: _Decoding) -> Array:
    return (state.position < max_reply) & ~jnp.all(state.done)

  # The newest token waits outside the cache, so R - 1 slots are enough.
  hidden, cache = qwen2.prefill(
    config, params, tokens, valid, slots=tokens.shape[1] + max_reply - 1, last=1
  )
  start = _Decoding(
    position=jnp.int32(0),
    cache=cache,
    tokens=jnp.full((rows, max_reply), pad_id, jnp.int32),
    log_probs=jnp.zeros((rows, max_reply), jnp.float32),
    done=~jnp.any(valid, axis=1),
    open_=sampling.start_choices(choices),
  )
  end = jax.lax.while_loop(unfinished, step, emit(start, hidden[:, 0]))
  return end.tokens, end.log_probs


class Generator:
  """Cuts requests into bucketed batches and runs `decode` on them.

  Attributes:
    shapes: the distinct `(B, P, A)` seen, one compilation each (A is 0 without
      constraint).
    num_truncated: prompts that lost their first tokens, because the largest
      bucket does not hold them.
  """

  def __init__(
    self,
    config: qwen2.Config,
    *,
    method: sampling.Sampling,
    max_reply: int,
    prompt_buckets: tuple[int, ...],
    batch_buckets: tuple[int, ...],
    choice_buckets: tuple[int, ...],
    end_id: int,
    pad_id: int,
  ):
    self._prompt_buckets = tuple(sorted(prompt_buckets))
    self._batch_buckets = tuple(sorted(batch_buckets))
    self._choice_buckets = tuple(sorted(choice_buckets))
    self._temperature = np.float32(method.scored_temperature)
    self._max_reply, self._end_id, self._pad_id = max_reply, end_id, pad_id
    # Without its temperature, so that temperatures share their compilations.
    base = dataclasses.replace(
      method, temperature=float(method.temperature > 0)
    )
    self._decode = functools.partial(
      decode,
      config=config,
      method=base,
      max_reply=max_reply,
      end_id=end_id,
      pad_id=pad_id,
    )
    self.shapes: set[tuple[int, int, int]] = set()
    self.num_truncated = 0

  @property
  def num_compilations(self) -> int:
    return len(self.shapes)

  @property
  def max_compilations(self) -> int:
    """However long this generator is used, it compiles no more often."""
    shapes = len(self._prompt_buckets) * len(self._batch_buckets)
    return shapes * (1 + len(self._choice_buckets))

  def __call__(
    self,
    params: qwen2.Params,
    prompts: Sequence[Tokens],
    row_keys: Any,
    choices: Sequence[Sequence[Tokens]] | None = None,
  ) -> Completions:
    """Replies to `prompts`.

    Rows are sorted by length before they are cut into batches, so that short
    prompts are not padded to the longest.

    Args:
      params: the policy.
      prompts: token ids, at least one each.
      row_keys: one key per prompt: `[B]` typed keys or `[B, 2]` uint32.
      choices: the allowed replies of each prompt, each ended by `end_id`; a
        prompt with none may be answered by anything.

    Returns: NumPy arrays on the host.
    Raises: ValueError: lengths that do not fit each other or a bucket.
    """
    keys = _raw_keys(row_keys)
    _check_request(prompts, keys, choices)
    order = np.argsort([len(p) for p in prompts], kind='stable')
    size = self._batch_buckets[-1]
    pieces = [order[i : i + size] for i in range(0, len(order), size)]
    # All batches are under way before the first answer is waited for.
    answers = [
      self._run(
        params,
        [prompts[i] for i in piece],
        keys[piece],
        [] if choices is None else [choices[i] for i in piece],
      )
      for piece in pieces
    ]
    tokens = np.full((len(prompts), self._max_reply), self._pad_id, np.int32)
    log_probs = np.zeros(tokens.shape, np.float32)
    for piece, answer in zip(pieces, answers, strict=True):
      tokens[piece] = np.asarray(answer[0])[: len(piece)]
      log_probs[piece] = np.asarray(answer[1])[: len(piece)]
    return Completions(tokens, log_probs, self._lengths(tokens))

  def _run(
    self,
    params: qwen2.Params,
    prompts: Sequence[Tokens],
    keys: np.ndarray,
    choices: Sequence[Sequence[Tokens]],
  ) -> tuple[Array, Array]:
    """Pads one batch to its bucket and starts it."""
    rows = _bucket(self._batch_buckets, len(prompts))
    longest = max(len(p) for p in prompts)
    columns = _bucket(self._prompt_buckets, longest)
    self.num_truncated += sum(len(p) > columns for p in prompts)
    tokens, valid = pack_prompts(prompts, rows, columns, self._pad_id)
    packed = self._pack(choices, rows)
    self.shapes.add((rows, columns, packed.shape[1]))
    padded_keys = np.zeros((rows, keys.shape[1]), keys.dtype)
    padded_keys[: len(keys)] = keys
    return self._decode(
      params, tokens, valid, padded_keys, packed, self._temperature
    )

  def _pack(self, choices: Sequence[Sequence[Tokens]], rows: int) -> np.ndarray:
    most = max(map(len, choices), default=0)
    if most > self._choice_buckets[-1]:
      raise ValueError(
        f'{most} allowed replies for one prompt, but the largest of '
        f'choice_buckets={self._choice_buckets}: add a larger bucket.'
      )
    ends = {c[-1] if len(c) else None for row in choices for c in row}
    if ends - {self._end_id}:
      raise ValueError(
        f'allowed replies end with tokens {sorted(map(str, ends))}: each must '
        f'end with end_id={self._end_id}.'
      )
    width = _bucket(self._choice_buckets, most) if choices else 0
    return pack_choices(choices, rows, width, self._max_reply)

  def _lengths(self, tokens: np.ndarray) -> np.ndarray:
    ended = tokens == self._end_id
    first = np.argmax(ended, axis=1) + 1
    lengths = np.where(ended.any(axis=1), first, self._max_reply)
    return lengths.astype(np.int32)


def make_generator(
  config: qwen2.Config,
  *,
  sampling: sampling.Sampling,
  max_reply: int,
  end_id: int,
  pad_id: int,
  prompt_buckets: tuple[int, ...] = PROMPT_BUCKETS,
  batch_buckets: tuple[int, ...] = BATCH_BUCKETS,
  choice_buckets: tuple[int, ...] = CHOICE_BUCKETS,
) -> Generator:
  """A `Generator`; two that differ in temperature share their compilations.

  Args:
    config: the model's size.
    sampling: how tokens are drawn.
    max_reply: R, the most tokens of a reply, its end-of-turn token included.
    end_id: the end-of-turn token.
    pad_id: the token that fills prompts on the left and replies on the right.
    prompt_buckets: the values of P; longer prompts lose their first tokens.
    batch_buckets: the values of B; larger requests are cut into several. On
      a CPU batches of 32 take half as long per row as batches of 128.
    choice_buckets: the values of A.
  """
  return Generator(
    config,
    method=sampling,
    max_reply=max_reply,
    prompt_buckets=prompt_buckets,
    batch_buckets=batch_buckets,
    choice_buckets=choice_buckets,
    end_id=end_id,
    pad_id=pad_id,
  )


def pack_prompts(
  prompts: Sequence[Tokens], rows: int, columns: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
  """Pads on the left: tokens int32 and valid bool, both `[rows, columns]`.

  Longer prompts keep their last tokens; rows without a prompt are not valid.
  """
  kept = [p[-columns:] for p in prompts]
  lengths = np.zeros(rows, np.int64)
  lengths[: len(kept)] = [len(p) for p in kept]
  valid = np.arange(columns) >= columns - lengths[:, None]
  tokens = np.full((rows, columns), pad_id, np.int32)
  tokens[valid] = _flat(kept)
  return tokens, valid


def pack_choices(
  choices: Sequence[Sequence[Tokens]], rows: int, width: int, max_reply: int
) -> np.ndarray:
  """Allowed replies `[rows, width, max_reply]` int32, padded with -1."""
  replies = [c for row in choices for c in row]
  lengths = np.fromiter(map(len, replies), np.int64, len(replies))
  if len(lengths) and lengths.max() > max_reply:
    raise ValueError(
      f'an allowed reply has {lengths.max()} tokens, but max_reply={max_reply}:'
      ' raise max_reply, or the constraint could not be kept.'
    )
  counts = np.zeros(rows, np.int64)
  counts[: len(choices)] = [len(row) for row in choices]
  used = np.arange(width) < counts[:, None]  # [rows, width]
  sizes = np.zeros((rows, width), np.int64)
  sizes[used] = lengths
  packed = np.full((rows, width, max_reply), -1, np.int32)
  packed[np.arange(max_reply) < sizes[..., None]] = _flat(replies)
  return packed


def _flat(sequences: Sequence[Tokens]) -> np.ndarray:
  return np.fromiter(itertools.chain.from_iterable(sequences), np.int32)


def _bucket(buckets: tuple[int, ...], size: int) -> int:
  """The smallest bucket that holds `size`, else the largest."""
  return next((b for b in buckets if b >= size), buckets[-1])


def _raw_keys(row_keys: Any) -> np.ndarray:
  if jnp.issubdtype(row_keys.dtype, jax.dtypes.prng_key):
    row_keys = jax.random.key_data(row_keys)
  return np.asarray(row_keys)


def _check_request(
  prompts: Sequence[Tokens],
  keys: np.ndarray,
  choices: Sequence[Sequence[Tokens]] | None,
) -> None:
  if len(keys) != len(prompts) or keys.ndim != 2:
    raise ValueError(
      f'row_keys of shape {keys.shape} for {len(prompts)} prompts: pass one '
      'key per prompt, e.g. jax.random.split(key, len(prompts)).'
    )
  if choices is not None and len(choices) != len(prompts):
    raise ValueError(
      f'{len(choices)} rows of choices for {len(prompts)} prompts: pass one '
      'list per prompt, empty for no constraint.'
    )
  empty = [i for i, p in enumerate(prompts) if not len(p)]
  if empty:
    raise ValueError(
      f'prompts {empty[:5]} are empty: there is nothing to continue; start '
      'with a chat marker.'
    )
