"""PPO's critic: the advantages of an iteration, and its own training.

PPO, Schulman et al. 2017 (https://arxiv.org/abs/1707.06347). The critic has
params, an optimizer and a clip of its own, and the policy's mini-batches.

Axes: N turns; R tokens of a reply; r values of a turn, 1 or R by the level.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
import optax
from jax import Array

from hgpo_jax import types
from hgpo_jax.advantages import returns, segments
from hgpo_jax.config import Algo
from hgpo_jax.losses import aggregate, value
from hgpo_jax.model import lora
from hgpo_jax.train import batching, estimators, packing, update

# params, rows -> values `[B, Q]`.
ValueFn = Callable[[types.Params, types.Packed], Array]


@dataclasses.dataclass(frozen=True)
class ValueLoss:
  """The clipped squared error, an `update.LossFn`; `clip` in reward units."""

  clip: float
  aggregation: ClassVar[str] = 'token-mean'

  def __call__(
    self,
    scores: Array,
    batch: types.ValueBatch,
    mask: Array,
    over: update.Denominators,
  ) -> tuple[Array, update.Scalars]:
    """Returns the mean over the tokens, and the share that was clipped."""

    def mean(x: Array) -> Array:
      return aggregate.token_mean(x, mask, over.tokens)

    error = value.clipped_error(
      scores, batch.old_values, batch.targets, clip=self.clip
    )
    loss = mean(error.loss)
    return loss, {'value_loss': loss, 'value_clipped': mean(error.clipped)}


class Critic:
  """An `estimators.AdvantageEstimator` whose values are learned.

  Attributes:
    optimizer: of its params.
  """

  def __init__(
    self,
    algo: Algo,
    values: ValueFn,
    optimizer: optax.GradientTransformation,
    placed: update.Placed = lambda state: state,
  ):
    """Builds the jitted functions of a run.

    Args:
      algo: the config's, with its options as `ppo`.
      values: of the critic.
      optimizer: of its params.
      placed: lays a new state out on the devices.
    """
    self._algo, self._options = algo, algo.ppo
    self.optimizer = optimizer
    self._reader = update.make_reader(values)
    self._step = update.make_train_step(
      values, ValueLoss(self._options.value_clip), optimizer, placed
    )

  def is_ready(self, state: types.TrainState) -> bool:
    """Whether its warm-up is over, so that the policy may be trained."""
    return int(_own(state).step) >= self._options.critic_warmup

  def estimate(
    self,
    trajectories: Sequence[types.Trajectory],
    state: types.TrainState | None,
    minibatches: Sequence[packing.MiniBatch],
  ) -> estimators.Advantages:
    """Computes the values of all turns, and their generalised advantages."""
    algo, options = self._algo, self._options
    values, mask = self._values(_own(state), trajectories, minibatches)
    last = np.arange(len(mask)), mask.sum(axis=1) - 1  # step of each turn
    rewards = np.zeros_like(values)
    rewards[last] = batching.turn_rewards(
      trajectories, algo.reward_scale, algo.invalid_penalty
    )
    goes_on = batching.cut_short(trajectories) & options.bootstrap_truncated
    traj, turn = batching.places(trajectories)
    padded = _advantages(
      *map(_padded, (rewards, values, traj, turn, mask)),
      last_values=_padded(goes_on * values[last]),
      gamma=algo.gamma,
      lam=options.lam,
    )
    advantages, targets = (np.asarray(x)[: len(mask)] for x in padded)
    return estimators.Advantages(
      advantages[:, 0] if options.level == 'turn' else advantages,
      values,
      targets,
      {
        'value_mean': float(np.mean(values[mask])),
        'explained_variance': explained_variance(values[mask], targets[mask]),
      },
    )

  def update(
    self,
    state: types.TrainState,
    minibatch: packing.MiniBatch,
    estimate: estimators.Advantages,
  ) -> tuple[types.TrainState, update.Scalars]:
    """Takes one optimiser step; the critic's old state is donated."""
    assert estimate.values is not None
    assert estimate.targets is not None
    batch = minibatch.value_batch(estimate.values, estimate.targets)
    own, scalars = self._step(_own(state), batch)
    scalars['value_grad_norm'] = scalars.pop('grad_norm')
    return dataclasses.replace(state, critic=own), scalars

  def _values(
    self,
    state: types.TrainState,
    trajectories: Sequence[types.Trajectory],
    minibatches: Sequence[packing.MiniBatch],
  ) -> tuple[np.ndarray, np.ndarray]:
    """Values `[N, r]` of all turns, and a mask of those that are real."""
    params = lora.combine(state.params, state.frozen)
    sizes = np.array([[u.reply.size] for t in trajectories for u in t.turns])
    tables = [
      self._reader(params, minibatch.unlabelled()) for minibatch in minibatches
    ]
    values = packing.gathered(minibatches, tables, len(sizes))
    if self._options.level == 'turn':
      values = values[:, :1]
    return values, np.arange(values.shape[1]) < sizes


def _own(state: types.TrainState | None) -> types.TrainState:
  if state is None or state.critic is None:
    raise ValueError(
      'Got a state without a critic; expected one of `Policy.init_state` with '
      "the critic's optimizer."
    )
  return state.critic


def explained_variance(values: np.ndarray, targets: np.ndarray) -> float:
  """1 - Var(targets - values) / Var(targets); 1 is perfect, 0 a constant.

  Args:
    values: `[k]`, in reward units.
    targets: `[k]`, in reward units.

  Returns: nan where the targets do not vary.
  """
  spread = float(np.var(targets))
  return 1 - float(np.var(targets - values)) / spread if spread else np.nan


@functools.partial(jax.jit, static_argnames=('gamma', 'lam'))
def _advantages(
  rewards: Array,
  values: Array,
  traj: Array,
  turn: Array,
  mask: Array,
  last_values: Array,
  *,
  gamma: float,
  lam: float,
) -> tuple[Array, Array]:
  """Whitened advantages `[N, r]`, and the targets of the values.

  A turn with one value is a reply of one token. See `returns.token_gae`.
  """
  advantages, targets = returns.token_gae(
    rewards,
    values,
    traj,
    turn,
    mask,
    gamma=gamma,
    lam=lam,
    last_values=last_values,
  )
  return segments.whiten(advantages, mask), targets


def _padded(x: np.ndarray) -> Any:  # NumPy's, for functions of JAX's
  """Pads `[N, ...]` with zeros to a size that serves many iterations."""
  extra = batching.round_up(len(x), batching.ROWS) - len(x)
  return np.pad(x, [(0, extra)] + [(0, 0)] * (x.ndim - 1))
