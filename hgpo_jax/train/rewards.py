"""What the learner rewards, from what the world says of an episode."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from hgpo_jax import types


def success(trajectory: types.Trajectory) -> types.Trajectory:
  """1 at the end of a won episode, else 0, as in the paper's runs.

  Where the world's own reward is partial (WebShop's score), what falls short of
  the whole is worth nothing.
  """
  *turns, last = (dataclasses.replace(u, reward=0.0) for u in trajectory.turns)
  last = dataclasses.replace(last, reward=float(trajectory.won))
  return dataclasses.replace(trajectory, turns=(*turns, last))


def world(trajectory: types.Trajectory) -> types.Trajectory:
  """The world's own."""
  return trajectory


REWARDS: Mapping[str, Callable[[types.Trajectory], types.Trajectory]] = {
  'success': success,
  'world': world,
}
