"""Trajectories -> the estimators' rows, and the order of mini-batches."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from hgpo_jax import random_streams, types
from hgpo_jax.advantages import Rows, grouping, intern, intern_within
from hgpo_jax.advantages import returns as returns_lib
from hgpo_jax.random_streams import Seed

# Rows are padded to a multiple of this, so that few sizes are compiled.
ROWS = 1024
SCORES = 3  # C, see `episode_scores`


def round_up(size: int, multiple: int) -> int:
  """Returns the least multiple that is no less than `size`."""
  return -(-size // multiple) * multiple


def estimator_rows(
  trajectories: Sequence[types.Trajectory],
  *,
  gamma: float,
  reward_scale: float,
  invalid_penalty: float,
  multiple: int = ROWS,
  fields: Collection[str] = (),
  similarity: float = 1.0,
) -> Rows:
  """Encodes trajectories as the columns that the estimators read.

  Args:
    trajectories: E episodes.
    gamma: discount per turn.
    reward_scale: the world's rewards are multiplied by this.
    invalid_penalty: taken off the return and the episode score of a row whose
      reply was malformed; not propagated to earlier rows.
    multiple: N is padded to a multiple of this.
    fields: names of optional fields to fill: `scores`, see `episode_scores`,
      and `outcome`, see `outcomes`.
    similarity: in (0, 1]; observations of a task that are at least this
      similar count as one; 1 is equality. See `grouping.similar_ids`.

  Returns: `Rows` with N rows, trajectory after trajectory, turn after turn.
  """
  turns = [turn for t in trajectories for turn in t.turns]
  owner, number = places(trajectories)
  totals = [reward_scale * t.total_reward for t in trajectories]
  padding = round_up(max(len(turns), 1), multiple) - len(turns)

  def column(
    values: npt.ArrayLike, dtype: npt.DTypeLike, filler: int = 0
  ) -> Any:  # NumPy's, where `Rows` has those of JAX
    values = np.asarray(values, dtype)
    widths = [(0, padding)] + [(0, 0)] * (values.ndim - 1)
    return np.pad(values, widths, constant_values=filler)

  traj, turn = column(owner, np.int32), column(number, np.int32)
  mask = column(np.ones(len(turns)), bool)
  task = intern(t.task for t in trajectories)[owner]
  rewards = column([reward_scale * u.reward for u in turns], np.float32)
  valid = column([u.valid for u in turns], bool, filler=True)
  episode_return, returns = _returns(
    column(np.asarray(totals)[owner], np.float32),
    rewards,
    traj,
    turn,
    mask,
    valid,
    gamma=gamma,
    penalty=invalid_penalty,
  )
  extra: dict[str, Any] = {}
  if 'scores' in fields:
    scores = episode_scores(trajectories, reward_scale)[owner]
    extra['scores'] = column(scores, np.float32)
  if 'outcome' in fields:
    extra['outcome'] = column(outcomes(trajectories)[owner], np.int32)
  return Rows(
    task=column(task, np.int32),
    traj=traj,
    turn=turn,
    obs=column(_observations(turns, task, similarity), np.int32),
    act=column(intern_within(task, (u.action for u in turns)), np.int32),
    episode_return=episode_return,
    returns=returns,
    mask=mask,
    **extra,
  )


def places(
  trajectories: Sequence[types.Trajectory],
) -> tuple[np.ndarray, np.ndarray]:
  """Each turn's episode, and its number there from 0 on: two `[N]` int32."""
  lengths = [len(t.turns) for t in trajectories]
  owner = np.repeat(np.arange(len(lengths)), lengths)
  number = np.concatenate([np.arange(n) for n in lengths])
  return owner.astype(np.int32), number.astype(np.int32)


def turn_rewards(
  trajectories: Sequence[types.Trajectory],
  reward_scale: float,
  invalid_penalty: float,
) -> np.ndarray:
  """The reward of each turn, less the penalty of a malformed reply.

  Arguments as in `estimator_rows`. Unlike there, the penalty is a reward like
  others, which a critic learns to expect.

  Returns: `[N]` float32, in reward units.
  """
  turns = [turn for t in trajectories for turn in t.turns]
  rewards = np.array([u.reward for u in turns], np.float32) * reward_scale
  invalid = np.array([not u.valid for u in turns], np.float32)
  return rewards - invalid_penalty * invalid


def cut_short(trajectories: Sequence[types.Trajectory]) -> np.ndarray:
  """Marks the last turn of episodes that the step limit ended: `[N]` bool."""
  return np.array(
    [t.truncated and u is t.turns[-1] for t in trajectories for u in t.turns]
  )


def episode_scores(
  trajectories: Sequence[types.Trajectory], reward_scale: float
) -> np.ndarray:
  """Scores of each episode, the larger the better: `[E, C]` float32.

  Its reward, in reward units; minus its share of malformed replies; minus its
  number of turns.
  """
  return np.array(
    [
      (
        reward_scale * t.total_reward,
        -np.mean([not u.valid for u in t.turns]),
        -len(t.turns),
      )
      for t in trajectories
    ],
    np.float32,
  )


def outcomes(trajectories: Sequence[types.Trajectory]) -> np.ndarray:
  """Numbers how episodes ended, `[E]` int32.

  Two episodes have the same number where both were won, or both lost, by the
  same last action on the same last observation: the world does not show what
  follows it.
  """
  return intern(
    (t.won, t.turns[-1].observation, t.turns[-1].action) for t in trajectories
  )


def _observations(
  turns: Sequence[types.Turn], task: np.ndarray, similarity: float
) -> np.ndarray:
  """Numbers the observations within their tasks, `[N]` int32."""
  texts = [u.observation for u in turns]
  if similarity < 1:
    return grouping.similar_ids(texts, task.tolist(), similarity)
  return intern_within(task, texts)


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
  order = random_streams.generator(seed, Seed.MINIBATCHES).permutation(rows)
  return np.array_split(order, -(-rows // size))
