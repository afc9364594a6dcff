"""The host's side of generation: who decodes where, and who waits.

Requests come in at any time and replies come out as they are finished. A chunk
is started without waiting for it, so that the caller can do its own work
meanwhile. On the host everything is NumPy: an eager JAX operation would be one
more compilation.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from hgpo_jax.model.interface import Model
from hgpo_jax.sampler import decode
from hgpo_jax.sampler.decode import DecodeShapes
from hgpo_jax.sampler.sampling import Sampling
from hgpo_jax.types import Params

Tokens = Sequence[int]


class RequestId(NamedTuple):
  """What a request is called; its key is made of it, so it is used once."""

  episode: int
  turn: int


@dataclasses.dataclass(frozen=True)
class Reply:
  """What was generated for a request.

  Attributes:
    request_id: of the request.
    prompt: `[p]` int32, what was read: the prompt, or the end of a long one.
    tokens: `[r]` int32, the end-of-turn token included where there is one.
    log_probs: `[r]` float32 of the scored distribution (see `sampling`).
  """

  request_id: RequestId
  prompt: np.ndarray
  tokens: np.ndarray
  log_probs: np.ndarray


@dataclasses.dataclass
class Counts:
  """What was done so far; one record may serve many `Batcher` in turn.

  Attributes:
    prompts: prompts that started to decode.
    prefilled: prompts that were read; equal ones only once.
    truncated: prompts that lost their first tokens, because the largest bucket
      does not hold them.
    tokens: tokens generated.
    shapes: what was compiled.
  """

  prompts: int = 0
  prefilled: int = 0
  truncated: int = 0
  tokens: int = 0
  shapes: set[tuple[Any, ...]] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True)
class _Request:
  request_id: RequestId
  prompt: np.ndarray
  choices: Sequence[Tokens]
  limit: int
  columns: int  # the prompt's bucket


class Batcher:
  """B rows that decode together, for one set of params."""

  def __init__(
    self,
    model: Model,
    shapes: DecodeShapes,
    sampling: Sampling,
    params: Params,
    key: jax.Array,
    counts: Counts | None = None,
  ):
    """Starts with empty rows.

    Args:
      model: the policy's.
      shapes: of generation.
      sampling: how tokens are drawn.
      params: the policy.
      key: of all replies, `[]` typed or `[2]` uint32; used for nothing else.
      counts: goes on from there.
    """
    self._model, self._shapes, self._params = model, shapes, params
    self._temperature = np.float32(sampling.scored_temperature)
    # Without its temperature, so that temperatures share their compilations.
    self._method = dataclasses.replace(
      sampling, temperature=float(sampling.temperature > 0)
    )
    self._key = _raw(key)
    self.counts = Counts() if counts is None else counts
    self._waiting: collections.deque[_Request] = collections.deque()
    self._rows: list[_Request | None] = [None] * shapes.rows
    self._position = np.zeros(shapes.rows, np.int64)
    self._state = decode.init_state(model, shapes)
    self._chunk: decode.ChunkResult | None = None

  @property
  def busy(self) -> bool:
    """Whether a request is not answered yet."""
    return bool(self._waiting) or self._decoding > 0

  @property
  def _decoding(self) -> int:
    return sum(row is not None for row in self._rows)

  def submit(
    self,
    request_id: RequestId,
    prompt: Tokens,
    choices: Sequence[Tokens] = (),
    limit: int | None = None,
  ) -> None:
    """Queues a request.

    Args:
      request_id: its name, never used before.
      prompt: token ids, at least one.
      choices: the replies that are allowed, each ended by the end-of-turn
        token; with none, anything is.
      limit: most tokens of the reply; default and maximum is that of
        the shapes.

    Raises: ValueError where that is not so.
    """
    shapes = self._shapes
    _check(shapes, prompt, choices)
    longest = shapes.prompt_buckets[-1]
    self.counts.truncated += len(prompt) > longest
    kept = np.asarray(prompt[-longest:], np.int32)
    limit = min(limit or shapes.max_reply, shapes.max_reply)
    columns = _bucket(shapes.prompt_buckets, len(kept) - 1)
    self._waiting.append(_Request(request_id, kept, choices, limit, columns))

  def start(self) -> None:
    """Fills free rows and starts a chunk, without waiting for either.

    Does nothing while the last chunk's replies have not been fetched, and
    where no request is there.
    """
    if self._chunk is not None:
      return
    if self._enough_wait():
      self._fill()
    if not self._decoding:
      return
    span = self._span()
    self.counts.shapes.add(('decode', span, self._method))
    self._state, self._chunk = decode.decode_chunk(
      self._state,
      self._params,
      self._temperature,
      model=self._model,
      method=self._method,
      span=span,
      chunk=self._shapes.chunk,
      end_id=self._shapes.end_id,
    )

  def finished(self) -> list[Reply]:
    """Waits for the chunk that was started; returns the replies it ended."""
    if self._chunk is None:
      return []
    chunk, self._chunk = jax.device_get(self._chunk), None
    position = chunk.position.astype(np.int64)
    self.counts.tokens += int(position.sum() - self._position.sum())
    self._position = position
    replies = []
    for row, request in enumerate(self._rows):
      if request is not None and chunk.done[row]:
        self._rows[row] = None
        replies.append(_reply(request, chunk, row))
    return replies

  def drain(self) -> dict[RequestId, Reply]:
    """Decodes until every request is answered."""
    replies: dict[RequestId, Reply] = {}
    while self.busy:
      self.start()
      replies |= {reply.request_id: reply for reply in self.finished()}
    return replies

  def _enough_wait(self) -> bool:
    """Whether it is worth to read prompts now.

    Of few requests not all can wait for each other: half of them are enough.
    """
    decoding, waiting = self._decoding, len(self._waiting)
    if not decoding or not waiting:
      return waiting > 0
    enough = min(self._shapes.prefill_rows, (waiting + decoding + 1) // 2)
    return min(waiting, len(self._rows) - decoding) >= enough

  def _fill(self) -> None:
    """Starts requests in all free rows, those of one bucket together."""
    free = [row for row, held in enumerate(self._rows) if held is None]
    number = min(len(free), len(self._waiting))
    # The oldest come first, but not alone if others have their length.
    chosen = _oldest_buckets(self._waiting, number)
    taken = set(map(id, chosen))
    self._waiting = collections.deque(
      r for r in self._waiting if id(r) not in taken
    )
    for _, same in itertools.groupby(chosen, key=lambda r: r.columns):
      for prompts in _pieces(list(same), self._shapes.prefill_buckets):
        number = sum(map(len, prompts))
        self._insert(prompts, free[:number])
        free = free[number:]

  def _insert(self, prompts: list[list[_Request]], rows: list[int]) -> None:
    """Starts lists of requests with equal prompts in `rows`."""
    requests = [r for same in prompts for r in same]
    for row, request in zip(rows, requests, strict=True):
      self._rows[row] = request
    self._position[rows] = 0
    new = _new_rows(self._shapes, prompts, rows)
    self.counts.prompts += len(requests)
    self.counts.prefilled += len(prompts)
    self.counts.shapes.add(('prefill', *new.tokens.shape))
    self._state = decode.insert(
      self._state,
      self._params,
      new,
      self._key,
      model=self._model,
      pad_id=self._shapes.pad_id,
    )

  def _span(self) -> int:
    """Columns that hold every row after the next chunk."""
    longest = 0
    for request, generated in zip(self._rows, self._position, strict=True):
      if request is not None:
        end = min(int(generated) + self._shapes.chunk, request.limit)
        longest = max(longest, len(request.prompt) - 1 + end)
    return _bucket(self._shapes.spans, longest)


def _oldest_buckets(waiting: Sequence[_Request], number: int) -> list[_Request]:
  """Takes `number` requests: the oldest one's bucket, the next one's ..."""
  buckets = list(dict.fromkeys(r.columns for r in waiting))
  return sorted(waiting, key=lambda r: buckets.index(r.columns))[:number]


def _pieces(
  requests: Sequence[_Request], sizes: tuple[int, ...]
) -> list[list[list[_Request]]]:
  """Requests -> calls of lists of those whose prompts are equal.

  A call has as many prompts as the largest size that can be filled, or the
  smallest size where none can.
  """
  groups: dict[bytes, list[_Request]] = {}
  for request in requests:
    groups.setdefault(request.prompt.tobytes(), []).append(request)
  left, calls = list(groups.values()), []
  while left:
    size = max((s for s in sizes if s <= len(left)), default=len(left))
    calls.append(left[:size])
    left = left[size:]
  return calls


def _new_rows(
  shapes: DecodeShapes,
  prompts: Sequence[Sequence[_Request]],
  rows: Sequence[int],
) -> decode.NewRows:
  """Packs the prompts and the rows that they are for."""
  requests = [r for same in prompts for r in same]
  texts = [same[0].prompt for same in prompts]
  tokens = np.full(
    (_bucket(shapes.prefill_buckets, len(texts)), requests[0].columns),
    shapes.pad_id,
    np.int32,
  )
  lengths = np.zeros(len(tokens), np.int32)
  for row, text in enumerate(texts):
    lengths[row] = len(text) - 1
    tokens[row, : len(text) - 1] = text[:-1]
  source = np.repeat(np.arange(len(prompts)), [len(s) for s in prompts])

  def filled(values: npt.ArrayLike, filler: int = 0) -> np.ndarray:
    out = np.full((shapes.rows, *np.shape(values)[1:]), filler, np.int32)
    out[: len(requests)] = np.asarray(values)
    return out

  return decode.NewRows(
    tokens=tokens,
    lengths=lengths,
    count=np.int32(len(requests)),
    rows=filled(rows, shapes.rows),
    source=filled(source.tolist()),
    newest=filled([r.prompt[-1] for r in requests]),
    names=filled([r.request_id for r in requests]),
    limit=filled([r.limit for r in requests]),
    choices=pack_choices(
      [r.choices for r in requests],
      shapes.rows,
      shapes.max_choices,
      shapes.max_reply,
    ),
  )


def pack_choices(
  choices: Sequence[Sequence[Tokens]], rows: int, width: int, max_reply: int
) -> np.ndarray:
  """Allowed replies `[rows, width, max_reply]` int32, padded with -1."""
  replies = [c for row in choices for c in row]
  lengths = np.fromiter(map(len, replies), np.int64, len(replies))
  counts = np.zeros(rows, np.int64)
  counts[: len(choices)] = [len(row) for row in choices]
  used = np.arange(width) < counts[:, None]  # [rows, width]
  sizes = np.zeros((rows, width), np.int64)
  sizes[used] = lengths
  packed = np.full((rows, width, max_reply), -1, np.int32)
  packed[np.arange(max_reply) < sizes[..., None]] = np.fromiter(
    itertools.chain.from_iterable(replies), np.int32
  )
  return packed


def _reply(request: _Request, chunk: decode.ChunkResult, row: int) -> Reply:
  length = int(chunk.position[row])
  return Reply(
    request.request_id,
    request.prompt,
    np.asarray(chunk.tokens[row, :length]),
    np.asarray(chunk.log_probs[row, :length]),
  )


def _bucket(buckets: tuple[int, ...], size: int) -> int:
  """The smallest bucket that holds `size`, else the largest."""
  return next((b for b in buckets if b >= size), buckets[-1])


def _raw(key: jax.Array) -> jax.Array:
  if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    return jax.random.key_data(key)
  return key


def _check(
  shapes: DecodeShapes, prompt: Tokens, choices: Sequence[Tokens]
) -> None:
  if not len(prompt):
    raise ValueError(
      'an empty prompt: there is nothing to continue; start with a chat marker.'
    )
  if len(choices) > shapes.max_choices:
    raise ValueError(
      f'{len(choices)} allowed replies for one prompt, but max_choices='
      f'{shapes.max_choices}: add a larger one to sampling.choice_buckets.'
    )
  longest = max(map(len, choices), default=0)
  if longest > shapes.max_reply:
    raise ValueError(
      f'an allowed reply has {longest} tokens, but max_reply='
      f'{shapes.max_reply}: raise sampling.max_reply, or the constraint '
      'could not be kept.'
    )
  ends = {c[-1] if len(c) else None for c in choices}
  if ends - {shapes.end_id}:
    raise ValueError(
      f'allowed replies end with tokens {sorted(map(str, ends))}: each must '
      f'end with end_id={shapes.end_id}.'
    )
