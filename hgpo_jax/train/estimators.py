"""Advantages of an iteration's turns, from their groups or from a critic.

`GroupEstimator` computes those of `hgpo_jax.advantages`, which learn nothing;
`critic.Critic` is PPO's, which is trained beside the policy.

Axes: N turns, R tokens of a reply.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import jax
import numpy as np

from hgpo_jax import types
from hgpo_jax.advantages import ESTIMATORS, Rows
from hgpo_jax.config import Config
from hgpo_jax.train import batching, packing

# Optional fields of `Rows` that an estimator reads; see `estimator_rows`.
FIELDS: Mapping[str, tuple[str, ...]] = {
  'copo': ('outcome',),
  'gdpo': ('scores',),
  'salt': ('outcome',),
}


@dataclasses.dataclass(frozen=True)
class Advantages:
  """Advantages of an iteration, before anything is learned from it.

  Attributes:
    advantages: `[N]`, or `[N, R]` where the tokens of a turn differ.
    values: `[N, r]` float32, a critic's, in reward units; 0 on padding. r is 1
      where a turn has one value, else R.
    targets: `[N, r]` float32, what the values are trained towards.
    scalars: to log.
  """

  advantages: np.ndarray
  values: np.ndarray | None = None
  targets: np.ndarray | None = None
  scalars: Mapping[str, float] = dataclasses.field(default_factory=dict)


class AdvantageEstimator(Protocol):
  """What the learner gets advantages from."""

  def estimate(
    self,
    trajectories: Sequence[types.Trajectory],
    state: types.TrainState | None,
    minibatches: Sequence[packing.MiniBatch],
  ) -> Advantages:
    """Returns the advantages of all turns, trajectory after trajectory.

    Args:
      trajectories: whole groups.
      state: of the training; a critic reads its params.
      minibatches: all turns packed, for a critic.
    """
    ...

  def update(
    self,
    state: types.TrainState,
    minibatch: packing.MiniBatch,
    estimate: Advantages,
  ) -> tuple[types.TrainState, dict[str, jax.Array]]:
    """Takes an optimiser step: returns the new state, and scalars to log."""
    ...

  def is_ready(self, state: types.TrainState) -> bool:
    """Whether the policy may already be trained with its advantages."""
    ...


class GroupEstimator:
  """An estimator of `hgpo_jax.advantages`: compares the turns of a group."""

  def __init__(self, config: Config):
    """Builds the estimator that the experiment's `algo` names."""
    self._algo = config.algo
    self._fn = jax.jit(estimator(config))

  def estimate(
    self,
    trajectories: Sequence[types.Trajectory],
    state: types.TrainState | None = None,
    minibatches: Sequence[packing.MiniBatch] = (),
  ) -> Advantages:
    """Compares the turns of each group; reads neither state nor packed rows."""
    del state, minibatches
    algo = self._algo
    rows = batching.estimator_rows(
      trajectories,
      gamma=algo.gamma,
      reward_scale=algo.reward_scale,
      invalid_penalty=algo.invalid_penalty,
      fields=FIELDS.get(algo.estimator, ()),
      similarity=algo.chosen.get('similarity', 1.0),
    )
    count = int(rows.mask.sum())
    return Advantages(np.asarray(self._fn(rows))[:count])

  def update(
    self,
    state: types.TrainState,
    minibatch: packing.MiniBatch,
    estimate: Advantages,
  ) -> tuple[types.TrainState, dict[str, jax.Array]]:
    """Learns nothing."""
    del minibatch, estimate
    return state, {}

  def is_ready(self, state: types.TrainState) -> bool:
    """It always is."""
    del state
    return True


def estimator(config: Config) -> Callable[[Rows], jax.Array]:
  """Returns the estimator with its options.

  Args:
    config: the experiment; a depth of -1 is that of the prompt, and
      `similarity` is an option of the rows and not of the formula.
  """
  options = config.algo.chosen
  options.pop('similarity', None)
  if options.get('depth') == -1:
    options['depth'] = config.env.history
  return functools.partial(ESTIMATORS[config.algo.estimator], **options)
