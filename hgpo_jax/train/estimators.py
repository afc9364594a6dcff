"""Who says how good each turn was: the turn's group, or a critic.

Either gives advantages, and may learn beside the policy. `GroupEstimator` is
all estimators of `hgpo_jax.advantages`; `critic.Critic` is PPO's.

Axes: n turns, R tokens of a reply.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from hgpo_jax import types
from hgpo_jax.advantages import ESTIMATORS, Rows
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

  def __init__(self, config: Any):
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
      similarity=_similarity(algo),
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


def estimator(config: Any) -> Callable[[Rows], jax.Array]:
  """Returns the estimator with its options; one with a depth is given K.

  Args:
    config: the experiment; `similarity` is an option of the rows and not of
      the formula.
  """
  name = config.algo.estimator
  options = dict(config.algo.get(name, {}))
  options.pop('similarity', None)
  if 'depth' in inspect.signature(ESTIMATORS[name]).parameters:
    options.setdefault('depth', config.env.history)
  return functools.partial(ESTIMATORS[name], **options)


def _similarity(algo: Any) -> float:
  """From which on observations count as one; see `estimator_rows`."""
  found: float = algo.get(algo.estimator, {}).get('similarity', 1.0)
  return found


def check(config: Any) -> None:
  """Tries the estimator of a config on shapes alone.

  Raises: TypeError or ValueError that says which option cannot work.
  """
  similarity = _similarity(config.algo)
  if not 0 < similarity <= 1:
    raise ValueError(
      f'Got similarity={similarity}, expected one in (0, 1]; 1 is equality.'
    )
  highest = config.algo.get(config.algo.estimator, {}).get('max_return', 1.0)
  if not highest > 0:
    raise ValueError(
      f'Got max_return={highest}, expected the return of a success, above 0.'
    )
  number, real = (jax.ShapeDtypeStruct((4,), t) for t in ('int32', 'float32'))
  fields: dict[str, Any] = {
    **dict.fromkeys(('task', 'traj', 'turn', 'obs', 'act'), number),
    **dict.fromkeys(('episode_return', 'returns'), real),
    'mask': jax.ShapeDtypeStruct((4,), 'bool'),
  }
  optional: dict[str, Any] = {
    'outcome': number,
    'scores': jax.ShapeDtypeStruct((4, batching.SCORES), 'float32'),
  }
  wanted = FIELDS.get(config.algo.estimator, ())
  rows = Rows(**fields, **{name: optional[name] for name in wanted})
  jax.eval_shape(estimator(config), rows)
