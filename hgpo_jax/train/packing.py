"""Turns of unequal length -> rows of one size, on the host.

A row has three capacities: tokens, reply tokens and turns. Turns go into rows
by first fit, longest first, whose waste is small and which gives the same rows
on every machine (Johnson 1974, https://doi.org/10.1137/0203025).

Axes: as in `hgpo_jax.types`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hgpo_jax import types
from hgpo_jax.sampler import batcher


@dataclasses.dataclass(frozen=True)
class Shapes:
  """The sizes of everything that is packed; each set of them is compiled.

  Attributes:
    tokens: L, tokens of a row.
    replies: Q, reply tokens of a row.
    turns: W, turns of a row.
    rows: B, rows of a micro-batch.
    reply: R, tokens of one reply, at most.
    choices: ascending numbers A of allowed replies of a turn.
  """

  tokens: int
  replies: int
  turns: int
  rows: int
  reply: int
  choices: tuple[int, ...]

  def __post_init__(self) -> None:
    wrong = []
    if not self.choices or list(self.choices) != sorted(self.choices):
      wrong.append(
        f'sampling.choice_buckets is {self.choices}; expected ascending sizes.'
      )
    if self.replies < self.reply or self.tokens < self.reply:
      wrong.append(
        f'optim.row_tokens={self.tokens}, row_replies={self.replies} with '
        f'sampling.max_reply={self.reply}: expected at least max_reply for '
        'both, or a turn of that length fits into no row.'
      )
    if self.turns < 1 or self.rows < 1:
      wrong.append(
        f'optim.row_turns={self.turns}, microbatch_rows={self.rows}: '
        'expected at least 1.'
      )
    if wrong:
      raise types.ConfigError('\n'.join(wrong))

  def choice_width(self, widest: int) -> int:
    """Returns the A that holds `widest` choices; 0 where there are none."""
    if widest > self.choices[-1]:
      raise types.ConfigError(
        f'{widest} allowed replies for one prompt, but the largest of '
        f'sampling.choice_buckets={self.choices}: add a larger one.'
      )
    return next(a for a in (0, *self.choices) if a >= widest)

  def micro_batches(self, turns: int) -> int:
    """Returns M: enough for `turns` turns even if no two share a row."""
    return -(-turns // self.rows)


@dataclasses.dataclass(frozen=True)
class Flat:
  """All turns end to end, so that batches are cut without a loop over them.

  Attributes:
    tokens: every turn's prompt and reply but its last token, int32.
    sizes: `[n]` tokens of each turn.
    replies: every turn's reply, int32.
    reply_sizes: `[n]` tokens of each reply.
    choices: `[all reply tokens, A]` int32, what was allowed there, -1 unused.
    cut: turns that lost the head of their prompt, to fit into a row.
  """

  tokens: np.ndarray
  sizes: np.ndarray
  replies: np.ndarray
  reply_sizes: np.ndarray
  choices: np.ndarray
  cut: int


@dataclasses.dataclass(frozen=True)
class MiniBatch:
  """A mini-batch without what is still to be learned about its turns.

  Attributes:
    rows: `[M, B, ...]`, NumPy; the micro-batches that hold turns come first.
    place: `[M, N, R]` int32, see `types.Batch`.
    turn: `[M, N]` int32, which turn is there; -1 on padding.
  """

  rows: types.Packed
  place: np.ndarray
  turn: np.ndarray

  def spread(self, table: np.ndarray) -> np.ndarray:
    """Lays out a table `[all turns, ...]` as `[M, N, ...]`, 0 on padding."""
    used = (self.turn >= 0).reshape(*self.turn.shape, *[1] * (table.ndim - 1))
    return np.where(used, table[self.turn], 0).astype(np.float32)

  def batch(
    self,
    advantages: np.ndarray,
    old_log_probs: np.ndarray,
    ref_log_probs: np.ndarray,
  ) -> types.Batch:
    """Adds advantages, `[n]` or `[n, R]`, and `[n, R]` log-probs of turns."""
    fields: dict[str, Any] = {  # NumPy arrays: jit moves them
      'rows': self.rows,
      'place': self.place,
      'advantages': self.spread(advantages),
      'old_log_probs': self.spread(old_log_probs),
      'ref_log_probs': self.spread(ref_log_probs),
    }
    return types.Batch(**fields)

  def value_batch(
    self, old_values: np.ndarray, targets: np.ndarray
  ) -> types.ValueBatch:
    """Adds `[n, r]` values and targets; r = 1 has those of the first token."""
    fields: dict[str, Any] = {
      'rows': self.rows,
      'place': self.place[..., : targets.shape[1]],
      'old_values': self.spread(old_values),
      'targets': self.spread(targets),
    }
    return types.ValueBatch(**fields)

  def unlabelled(self) -> types.Batch:
    """The batch for a loss that reads nothing but the new log-probs."""
    zeros = np.zeros(self.place.shape, np.float32)
    fields: dict[str, Any] = {
      'rows': self.rows,
      'place': self.place,
      'advantages': zeros[..., 0],
      'old_log_probs': zeros,
      'ref_log_probs': zeros,
    }
    return types.Batch(**fields)

  def fill(self) -> float:
    """Share of real tokens in the micro-batches that are computed."""
    real = np.asarray(self.rows.segments) > 0
    computed = int(real.any(axis=(1, 2)).sum()) * real[0].size
    return float(real.sum()) / max(computed, 1)


def gathered(
  minibatches: Sequence[MiniBatch], values: Sequence[Any], count: int
) -> np.ndarray:
  """Undoes `spread`: values `[M, N, R]` of each -> `[count, R]` float32.

  Args:
    minibatches: together, every turn once.
    values: arrays on any device; all may be under way before one is awaited.
    count: turns.
  """
  table = np.zeros((count, minibatches[0].place.shape[-1]), np.float32)
  for minibatch, own in zip(minibatches, values, strict=True):
    used = minibatch.turn >= 0
    table[minibatch.turn[used]] = np.asarray(own)[used]
  return table


def flatten(turns: Sequence[types.Turn], shapes: Shapes) -> Flat:
  """Lines up all turns of an iteration.

  Args:
    turns: n of them.
    shapes: a turn that is longer than a row loses the head of its prompt; the
      width of choices is that of the widest turn.
  """
  room = [shapes.tokens - len(t.reply) + 1 for t in turns]
  prompts = [t.prompt[-r:] for t, r in zip(turns, room, strict=True)]
  inputs = [(p, t.reply[:-1]) for p, t in zip(prompts, turns, strict=True)]
  replies = [t.reply for t in turns]
  width = shapes.choice_width(max((len(t.choices) for t in turns), default=0))
  return Flat(
    tokens=_concatenate(itertools.chain.from_iterable(inputs)),
    sizes=np.array([len(p) + len(r) for p, r in inputs], np.int64),
    replies=_concatenate(replies),
    reply_sizes=np.array([len(r) for r in replies], np.int64),
    choices=_next_tokens(turns, shapes.reply, width),
    cut=sum(
      len(p) < len(t.prompt) for p, t in zip(prompts, turns, strict=True)
    ),
  )


def pack(
  flat: Flat, index: np.ndarray, shapes: Shapes, micro: int
) -> MiniBatch:
  """Lays turns out in `micro` micro-batches.

  Args:
    flat: all turns.
    index: `[n]` which of them, in any order.
    shapes: what to pad to.
    micro: M, at least `shapes.micro_batches(n)`.
  """
  rows = micro * shapes.rows
  row = first_fit(
    np.stack(
      [flat.sizes[index], flat.reply_sizes[index], np.ones_like(index)], axis=1
    ),
    (shapes.tokens, shapes.replies, shapes.turns),
  )
  if row.size and row.max() >= rows:
    raise ValueError(
      f'{row.max() + 1} rows of turns for {micro} micro-batches of '
      f'{shapes.rows}: expected micro={shapes.micro_batches(len(index))}.'
    )
  order = np.argsort(row, kind='stable')
  index, row = index[order], row[order]
  return _laid_out(flat, index, row, shapes, micro)


def first_fit(sizes: np.ndarray, capacity: Sequence[int]) -> np.ndarray:
  """Puts items, longest first, each into the first bin that holds it.

  Args:
    sizes: `[n, C]` what each item takes of each of the C capacities.
    capacity: `[C]` of every bin, no less than the largest item.

  Returns: `[n]` the items' bins, counted from 0 without a gap.
  """
  if np.any(sizes > np.asarray(capacity)):
    raise ValueError(
      f'an item takes {sizes.max(axis=0)} of {tuple(capacity)}: too much.'
    )
  free = np.tile(np.asarray(capacity, np.int64), (len(sizes), 1))
  bins = np.zeros(len(sizes), np.int64)
  opened = 0
  for item in np.argsort(-sizes[:, 0], kind='stable'):
    # The next bin is empty, so one of these always fits.
    fits = np.all(free[: opened + 1] >= sizes[item], axis=1)
    bins[item] = chosen = int(np.argmax(fits))
    free[chosen] -= sizes[item]
    opened = max(opened, chosen + 1)
  return bins


def _laid_out(
  flat: Flat, index: np.ndarray, row: np.ndarray, shapes: Shapes, micro: int
) -> MiniBatch:
  """Turns `index`, sorted by their `row`, as a mini-batch."""
  s = shapes
  rows = micro * s.rows
  sizes, reply_sizes = flat.sizes[index], flat.reply_sizes[index]
  slot = _offsets(row, np.ones_like(row))  # among the turns of its row
  start = _offsets(row, sizes)  # column of its first token
  first = _offsets(row, reply_sizes)  # reply place of its first reply token
  step = _within(reply_sizes)

  def filled(
    shape: tuple[int, ...], empty: int, where: np.ndarray, what: np.ndarray
  ) -> np.ndarray:
    out = np.full((rows * shape[0], *shape[1:]), empty, np.int32)
    out[where] = what
    return out.reshape(micro, s.rows, *shape)

  columns = np.repeat(row * s.tokens + start, sizes) + _within(sizes)
  places = np.repeat(row * s.replies + first, reply_sizes) + step
  turns = row * s.turns + slot
  words = _slices(flat.sizes, index)
  answers = _slices(flat.reply_sizes, index)
  last = start + sizes - reply_sizes  # column that predicts the first of them
  cells = np.repeat(turns * s.reply, reply_sizes) + step
  of_reply = np.repeat(first, reply_sizes) + step
  packed: dict[str, Any] = {
    'tokens': filled((s.tokens,), 0, columns, flat.tokens[words]),
    'segments': filled((s.tokens,), 0, columns, np.repeat(slot + 1, sizes)),
    'at': filled((s.replies,), 0, places, np.repeat(last, reply_sizes) + step),
    'targets': filled((s.replies,), -1, places, flat.replies[answers]),
    'choices': filled(
      (s.replies, flat.choices.shape[1]), -1, places, flat.choices[answers]
    ),
  }
  place = filled((s.turns * s.reply,), -1, cells, of_reply)
  turn = filled((s.turns,), -1, turns, index)
  return MiniBatch(
    rows=types.Packed(**packed),
    place=place.reshape(micro, -1, s.reply),
    turn=turn.reshape(micro, -1),
  )


def _offsets(row: np.ndarray, amounts: np.ndarray) -> np.ndarray:
  """Sums of `amounts` before each item within its row; `row` ascends."""
  before = np.cumsum(amounts) - amounts
  return before - before[np.searchsorted(row, row)]


def _within(sizes: np.ndarray) -> np.ndarray:
  """0, 1 ... size - 1 for each size, end to end."""
  before = np.cumsum(sizes) - sizes
  return np.arange(sizes.sum()) - np.repeat(before, sizes)


def _slices(sizes: np.ndarray, index: np.ndarray) -> np.ndarray:
  """Where the parts `index` of an end-to-end array stand in it."""
  before = np.cumsum(sizes) - sizes
  return np.repeat(before[index], sizes[index]) + _within(sizes[index])


def _next_tokens(
  turns: Sequence[types.Turn], reply: int, width: int
) -> np.ndarray:
  """What was allowed at each reply token: `[all reply tokens, width]` int32.

  An allowed reply counts as long as it agrees with what was said so far.
  """
  said = np.array([len(t.reply) for t in turns], np.int64)
  real = np.arange(reply) < said[:, None]  # [n, R]
  if not width:
    return np.zeros((int(said.sum()), 0), np.int32)
  replies = np.full(real.shape, -2, np.int32)
  replies[real] = _concatenate(t.reply for t in turns)
  longest = max((len(c) for t in turns for c in t.choices), default=0)
  if longest > reply:
    raise types.ConfigError(
      f'an allowed reply has {longest} tokens, but sampling.max_reply={reply}: '
      'raise it, or the constraint could not be kept.'
    )
  choices = batcher.pack_choices(
    [t.choices for t in turns], len(turns), width, reply
  )
  agrees = choices == replies[:, None]  # [n, A, R]
  so_far = np.ones_like(agrees)
  np.logical_and.accumulate(agrees[..., :-1], axis=2, out=so_far[..., 1:])
  allowed = np.where(so_far, choices, -1)
  return np.swapaxes(allowed, 1, 2)[real]


def _concatenate(arrays: Iterable[np.ndarray]) -> np.ndarray:
  parts = list(arrays)
  return np.concatenate(parts) if parts else np.zeros(0, np.int32)
