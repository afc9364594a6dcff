"""Trajectories -> the estimators' rows, and the order of mini-batches."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from hgpo_jax import types
from hgpo_jax.advantages import Rows, intern
from hgpo_jax.advantages import returns as returns_lib

# What a seed is for stands last in it, so that no two purposes share a stream.
_ORDER = 1


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
  episode_return, returns = _returns(
    column(np.repeat(totals, lengths), np.float32),
    rewards,
    traj,
    turn,
    mask,
    valid,
    gamma=gamma,
    penalty=invalid_penalty,
  )
  return Rows(
    task=column(task[traj[: len(turns)]], np.int32),
    traj=traj,
    turn=turn,
    obs=column(intern(u.observation for u in turns), np.int32),
    act=column(intern(u.action for u in turns), np.int32),
    episode_return=episode_return,
    returns=returns,
    mask=mask,
  )


@functools.partial(jax.jit, static_argnames=('gamma', 'penalty'))
def _returns(
  totals: jax.Array,
  rewards: jax.Array,
  traj: jax.Array,
  turn: jax.Array,
  mask: jax.Array,
  valid: jax.Array,
  *,
  gamma: float,
  penalty: float,
) -> tuple[jax.Array, jax.Array]:
  """Episode scores and discounted returns, less the penalty."""
  returns = returns_lib.discounted_returns(
    rewards, traj, turn, mask, gamma=gamma
  )
  return (
    returns_lib.penalise(totals, valid, penalty=penalty),
    returns_lib.penalise(returns, valid, penalty=penalty),
  )


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
