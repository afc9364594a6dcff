"""The learner's rewards, from those of the world."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from hgpo_jax import types


def success(trajectory: types.Trajectory) -> types.Trajectory:
  """1 at the end of a won episode, else 0, as in the paper's runs.

  Where the world's own reward is partial (WebShop's score), it counts only in
  full.
  """
  *turns, last = (dataclasses.replace(u, reward=0.0) for u in trajectory.turns)
  last = dataclasses.replace(last, reward=float(trajectory.won))
  return dataclasses.replace(trajectory, turns=(*turns, last))


def world(trajectory: types.Trajectory) -> types.Trajectory:
  """The world's own rewards."""
  return trajectory


REWARDS: Mapping[str, Callable[[types.Trajectory], types.Trajectory]] = {
  'success': success,
  'world': world,
}
