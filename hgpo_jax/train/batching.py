"""Trajectories and advantages -> batches of a fixed set of shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from hgpo_jax import types
from hgpo_jax.advantages import Rows, intern
from hgpo_jax.advantages import returns as returns_lib
from hgpo_jax.policy import generate

# What a seed is for stands last in it, so that no two purposes share a stream.
_ORDER = 1


@dataclasses.dataclass(frozen=True)
class Shapes:
  """The sizes that rows are padded to; few, since each one is compiled.

  Attributes:
    prompt: ascending prompt lengths P, in tokens.
    reply: reply length R, in tokens.
    choices: ascending numbers A of choices per row.
    micro: rows per micro-batch.
  """

  prompt: tuple[int, ...]
  reply: int
  choices: tuple[int, ...]
  micro: int

  def __post_init__(self) -> None:
    for name in ('prompt', 'choices'):
      sizes = getattr(self, name)
      if not sizes or list(sizes) != sorted(sizes):
        raise types.ConfigError(
          f'sampling.{name}_buckets is {sizes}; expected ascending sizes.'
        )

  def choice_width(self, widest: int) -> int:
    """Returns the A that holds `widest` choices; 0 where there are none."""
    if widest > self.choices[-1]:
      raise types.ConfigError(
        f'{widest} allowed replies for one prompt, but the largest of '
        f'sampling.choice_buckets={self.choices}: add a larger one.'
      )
    return next(a for a in (0, *self.choices) if a >= widest)


def round_up(size: int, multiple: int) -> int:
  return -(-size // multiple) * multiple


def estimator_rows(
  trajectories: Sequence[types.Trajectory],
  *,
  gamma: float,
  reward_scale: float,
  invalid_penalty: float,
  multiple: int,
) -> Rows:
  """Codes trajectories as the integer and float columns of the estimators.

  Args:
    trajectories: E episodes.
    gamma: discount per turn.
    reward_scale: the world's rewards are multiplied by this.
    invalid_penalty: taken off the return and the episode score of a row whose
      reply was malformed; not propagated to earlier rows.
    multiple: N is padded to a multiple of this.

  Returns: `Rows` with N rows, trajectory after trajectory, turn after turn.
  """
  turns = [turn for t in trajectories for turn in t.turns]
  lengths = [len(t.turns) for t in trajectories]
  totals = [reward_scale * sum(u.reward for u in t.turns) for t in trajectories]
  padding = (0, round_up(max(len(turns), 1), multiple) - len(turns))

  def column(values: Any, dtype: Any) -> Any:
    return np.pad(np.asarray(values, dtype), padding)

  traj = column(np.repeat(np.arange(len(lengths)), lengths), np.int32)
  turn = column(np.concatenate([np.arange(n) for n in lengths]), np.int32)
  mask = column(np.ones(len(turns)), bool)
  task: Any = intern(t.task for t in trajectories)
  rewards = column([reward_scale * u.reward for u in turns], np.float32)
  valid: Any = np.pad(
    np.asarray([u.valid for u in turns], bool), padding, constant_values=True
  )
  returns = _returns(rewards, traj, turn, mask, gamma=gamma)
  return Rows(
    task=column(task[traj[: len(turns)]], np.int32),
    traj=traj,
    turn=turn,
    obs=column(intern(u.observation for u in turns), np.int32),
    episode_return=returns_lib.penalise(
      column(np.repeat(totals, lengths), np.float32),
      valid,
      penalty=invalid_penalty,
    ),
    returns=returns_lib.penalise(returns, valid, penalty=invalid_penalty),
    mask=mask,
  )


_returns = jax.jit(returns_lib.discounted_returns, static_argnames='gamma')


@dataclasses.dataclass(frozen=True)
class Columns:
  """What the learner knows of each of the N rows beside its tokens.

  Attributes:
    advantages: `[N]` float32.
    old_log_probs: `[N, R]` float32, of the policy that sampled.
    ref_log_probs: `[N, R]` float32, of the frozen reference.
  """

  advantages: np.ndarray
  old_log_probs: np.ndarray
  ref_log_probs: np.ndarray

  @classmethod
  def zeros(cls, rows: int, reply: int) -> Columns:
    table = np.zeros((rows, reply), np.float32)
    return cls(np.zeros(rows, np.float32), table, table)


def pack(
  turns: Sequence[types.Turn],
  columns: Columns,
  index: np.ndarray,
  shapes: Shapes,
  size: int,
) -> tuple[list[np.ndarray], tuple[types.Batch, ...]]:
  """Lays rows out by length: one batch for each prompt bucket.

  The shapes do not depend on the lengths that happen to occur, only on the
  bucket of the widest choices, so that a compilation or two serve a whole run;
  empty places cost nothing, as micro-batches of padding are not computed.

  Args:
    turns: all rows of the iteration.
    columns: their numbers.
    index: which rows.
    shapes: what to pad to.
    size: places in each batch, at least `index.size`.

  Returns: per bucket, the rows in it and a batch of `size` places. A prompt
    that is longer than every bucket loses its oldest tokens, as in generation.
  """
  bounds = np.asarray(shapes.prompt[:-1])
  lengths = np.asarray([turns[i].prompt.size for i in index])
  place = np.searchsorted(bounds, lengths)  # the smallest bucket that holds it
  parts = [index[place == b] for b in range(len(shapes.prompt))]
  width = shapes.choice_width(max(len(turns[i].choices) for i in index))
  return parts, tuple(
    _pack(turns, columns, part, shapes, size, prompt, width)
    for part, prompt in zip(parts, shapes.prompt, strict=True)
  )


def _pack(
  turns: Sequence[types.Turn],
  columns: Columns,
  index: np.ndarray,
  shapes: Shapes,
  size: int,
  prompt: int,
  choices: int,
) -> types.Batch:
  """One batch of `size` places, P = `prompt` and A = `choices`."""
  chosen = [turns[i] for i in index]
  tokens = np.zeros((size, prompt + shapes.reply), np.int32)
  valid = np.zeros(tokens.shape, bool)
  for row, turn in enumerate(chosen):
    kept = turn.prompt[-prompt:]
    start, end = prompt - kept.size, prompt + turn.reply.size
    tokens[row, start:prompt] = kept
    tokens[row, prompt:end] = turn.reply
    valid[row, start:end] = True

  def rows(table: np.ndarray) -> np.ndarray:
    out = np.zeros((size, *table.shape[1:]), np.float32)
    out[: index.size] = table[index]
    return out

  fields: dict[str, Any] = {  # NumPy arrays: jit moves them
    'tokens': tokens,
    'valid': valid,
    'choices': generate.pack_choices(
      [turn.choices for turn in chosen], size, choices, shapes.reply
    ),
    'old_log_probs': rows(columns.old_log_probs),
    'ref_log_probs': rows(columns.ref_log_probs),
    'advantages': rows(columns.advantages),
    'mask': np.arange(size) < len(chosen),
  }
  return types.Batch(**fields)


def sampled_log_probs(turns: Sequence[types.Turn], reply: int) -> np.ndarray:
  """Returns the sampler's own log-probs, `[N, R]` float32."""
  table = np.zeros((len(turns), reply), np.float32)
  for row, turn in enumerate(turns):
    table[row, : turn.reply.size] = turn.log_probs
  return table


def minibatches(rows: int, size: int, seed: Sequence[int]) -> list[np.ndarray]:
  """Splits rows at random into mini-batches of nearly equal size.

  Args:
    rows: N.
    size: at most so many rows each.
    seed: of the permutation.

  Returns: row numbers; together, every row once.
  """
  order = np.random.default_rng((*seed, _ORDER)).permutation(rows)
  return np.array_split(order, -(-rows // size))
