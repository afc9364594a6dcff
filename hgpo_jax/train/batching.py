"""Trajectories and advantages -> batches of a fixed set of shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from hgpo_jax import types
from hgpo_jax.advantages import Rows, intern
from hgpo_jax.advantages import returns as returns_lib
from hgpo_jax.policy import generate


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


def bucket(size: int, buckets: Sequence[int]) -> int:
  """Returns the smallest bucket that holds `size`, or the largest one."""
  return next((b for b in buckets if b >= size), buckets[-1])


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

  def column(values, dtype):
    return np.pad(np.asarray(values, dtype), padding)

  traj = column(np.repeat(np.arange(len(lengths)), lengths), np.int32)
  turn = column(np.concatenate([np.arange(n) for n in lengths]), np.int32)
  mask = column(np.ones(len(turns)), bool)
  task = intern(t.task for t in trajectories)
  rewards = column([reward_scale * u.reward for u in turns], np.float32)
  valid = np.pad(
    np.asarray([u.valid for u in turns], bool), padding, constant_values=True
  )
  returns = _returns(rewards, traj, turn, mask, gamma=gamma)
  return Rows(
    task=np.where(mask, task[traj], 0),
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


def pack(
  turns: Sequence[types.Turn],
  advantages: np.ndarray,
  ref_log_probs: np.ndarray,
  old_log_probs: np.ndarray,
  index: np.ndarray,
  shapes: Shapes,
  size: int,
) -> types.Batch:
  """Lays rows out as one batch of `size` rows.

  Args:
    turns: all rows of the iteration.
    advantages: `[N]`, ref_log_probs and old_log_probs: `[N, R]`.
    index: which rows; shorter prompts first keeps micro-batches alike.
    shapes: what to pad to.
    size: rows of the batch, at least `index.size`; the rest is padding.

  Returns: a batch whose P is the bucket of its longest prompt. A prompt that
    is longer than every bucket loses its oldest tokens, as in generation.
  """
  chosen = [turns[i] for i in index]
  width = bucket(max(t.prompt.size for t in chosen), shapes.prompt)
  widest = max(len(t.choices) for t in chosen)
  choices = generate.pack_choices(
    [t.choices for t in chosen],
    size,
    bucket(widest, shapes.choices) if widest else 0,
    shapes.reply,
  )
  tokens = np.zeros((size, width + shapes.reply), np.int32)
  valid = np.zeros(tokens.shape, bool)
  for row, turn in enumerate(chosen):
    prompt = turn.prompt[-width:]
    tokens[row, width - prompt.size : width] = prompt
    tokens[row, width : width + turn.reply.size] = turn.reply
    valid[row, width - prompt.size : width + turn.reply.size] = True
  return types.Batch(
    tokens=tokens,
    valid=valid,
    choices=choices,
    old_log_probs=_rows(old_log_probs, index, size),
    ref_log_probs=_rows(ref_log_probs, index, size),
    advantages=_rows(advantages, index, size),
    mask=np.arange(size) < len(chosen),
  )


def sampled_log_probs(turns: Sequence[types.Turn], reply: int) -> np.ndarray:
  """Returns the sampler's own log-probs, `[N, R]` float32."""
  table = np.zeros((len(turns), reply), np.float32)
  for row, turn in enumerate(turns):
    table[row, : turn.reply.size] = turn.log_probs
  return table


def minibatches(
  lengths: np.ndarray, size: int, seed: Sequence[int]
) -> Iterator[np.ndarray]:
  """Splits rows at random into mini-batches of nearly equal size.

  Args:
    lengths: `[N]` prompt lengths, by which each mini-batch is sorted so that
      its micro-batches hold rows of like length.
    size: at most so many rows each.
    seed: of the permutation.

  Yields: row numbers; together, every row once.
  """
  order = np.random.default_rng(seed).permutation(lengths.size)
  for part in np.array_split(order, -(-lengths.size // size)):
    yield part[np.argsort(lengths[part], kind='stable')]


def _rows(table: np.ndarray, index: np.ndarray, size: int) -> np.ndarray:
  out = np.zeros((size, *table.shape[1:]), np.float32)
  out[: index.size] = table[index]
  return out
