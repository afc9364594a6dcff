"""Who says how good each turn was: the turn's group, or a critic.

Either gives advantages, and may learn beside the policy. `GroupEstimator` is
all estimators of `hgpo_jax.advantages`; `critic.Critic` is PPO's.

Axes: n turns, R tokens of a reply.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

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
  """What is made of an iteration before anything is learned from it.

  Attributes:
    advantages: `[n]`, or `[n, R]` where the tokens of a turn differ.
    values: `[n, r]` float32, a critic's, in reward units; 0 on padding. r is 1
      where a turn has one value, else R.
    targets: `[n, r]` float32, what they should have been.
    scalars: to log.
  """

  advantages: np.ndarray
  values: np.ndarray | None = None
  targets: np.ndarray | None = None
  scalars: Mapping[str, float] = dataclasses.field(default_factory=dict)


class AdvantageEstimator(Protocol):
  """What the learner asks for advantages."""

  def judge(
    self,
    trajectories: Sequence[types.Trajectory],
    state: types.TrainState | None,
    plans: Sequence[packing.MiniBatch],
  ) -> Advantages:
    """Judges all turns; a critic needs its state, and the turns packed."""
    ...

  def learn(
    self, state: types.TrainState, plan: packing.MiniBatch, estimate: Advantages
  ) -> tuple[types.TrainState, dict[str, Any]]:
    """Learns from a mini-batch: the new state, and scalars to log."""
    ...

  def is_ready(self, state: types.TrainState) -> bool:
    """Whether the policy may follow it yet."""
    ...


class GroupEstimator:
  """Compares the episodes of a group; there is nothing to be learned."""

  def __init__(self, config: Config):
    """Takes the estimator that the experiment's `algo` names."""
    self._algo = config.algo
    self._estimate = jax.jit(estimator(config))

  def judge(
    self,
    trajectories: Sequence[types.Trajectory],
    state: types.TrainState | None = None,
    plans: Sequence[packing.MiniBatch] = (),
  ) -> Advantages:
    del state, plans
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
    return Advantages(np.asarray(self._estimate(rows))[:count])

  def learn(
    self, state: types.TrainState, plan: packing.MiniBatch, estimate: Advantages
  ) -> tuple[types.TrainState, dict[str, Any]]:
    del plan, estimate
    return state, {}

  def is_ready(self, state: types.TrainState) -> bool:
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
