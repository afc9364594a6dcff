"""The learner's half of an iteration: trajectories -> updated params."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from hgpo_jax import types
from hgpo_jax.advantages import ESTIMATORS, Rows
from hgpo_jax.losses import aggregate, kl
from hgpo_jax.train import batching, update

# What a seed is for stands last in it; see also `batching.minibatches`.
_SHUFFLE = 2
_OLD_LOG_PROBS = ('score', 'sampler')


class Learner:
  """Advantages, scoring and optimiser steps with everything compiled once."""

  def __init__(
    self,
    config: Any,
    score: update.ScoreFn,
    shapes: batching.Shapes,
  ):
    """Builds the jitted functions of a run.

    Args:
      config: the experiment's `algo`, `loss`, `optim`, `rollout` and `env`.
      score: log-probs and entropy of replies.
      shapes: what rows are padded to.
    """
    self._config, self._shapes = config, shapes
    loss = dict(config.loss)
    self._rescore = loss.pop('old_log_probs') == 'score'
    optim = dict(config.optim)
    self._epochs, self._minibatch = optim.pop('epochs'), optim.pop('minibatch')
    optim.pop('microbatch')
    self.optimizer: optax.GradientTransformation = update.make_optimizer(
      **optim
    )
    self._estimate = jax.jit(_estimator(config))
    self._score = update.make_scorer(score, shapes.micro)
    self._step = update.make_train_step(
      score, update.PolicyLoss(**loss), self.optimizer, shapes.micro
    )

  def advantages(
    self, trajectories: Sequence[types.Trajectory], seed: Sequence[int]
  ) -> np.ndarray:
    """Returns `[N]` advantages, trajectory after trajectory, turn by turn."""
    algo = self._config.algo
    rows = batching.estimator_rows(
      trajectories,
      gamma=algo.gamma,
      reward_scale=algo.reward_scale,
      invalid_penalty=algo.invalid_penalty,
      multiple=1024,
    )
    values = np.asarray(self._estimate(rows))[: int(rows.mask.sum())]
    if algo.shuffle_advantages:
      values = np.random.default_rng((*seed, _SHUFFLE)).permutation(values)
    return algo.advantage_sign * values

  def log_probs(self, params: Any, turns: Sequence[types.Turn]) -> np.ndarray:
    """Scores the replies of all rows: `[N, R]` float32."""
    columns = batching.Columns.zeros(len(turns), self._shapes.reply)
    out = np.zeros_like(columns.old_log_probs)
    order = np.argsort([turn.prompt.size for turn in turns], kind='stable')
    for start in range(0, len(turns), self._minibatch):
      index = order[start : start + self._minibatch]
      parts, batches = self._pack(turns, columns, index)
      for part, scores in zip(parts, self._score(params, batches), strict=True):
        out[part] = np.asarray(scores)[: part.size]
    return out

  def update(
    self,
    state: types.TrainState,
    reference: Any,
    trajectories: Sequence[types.Trajectory],
    seed: Sequence[int],
  ) -> tuple[types.TrainState, dict[str, float]]:
    """Learns from one iteration's trajectories.

    Args:
      state: donated.
      reference: the frozen params that the KL is measured to.
      trajectories: whole groups.
      seed: of the order of rows, one per iteration.

    Returns: the new state, and the mean of every scalar over the optimiser
      steps; `first_*` are those of the first step, before anything moved.
    """
    turns = [turn for t in trajectories for turn in t.turns]
    columns = batching.Columns(
      advantages=self.advantages(trajectories, seed),
      old_log_probs=self.log_probs(state.params, turns)
      if self._rescore
      else batching.sampled_log_probs(turns, self._shapes.reply),
      ref_log_probs=self.log_probs(reference, turns),
    )
    seen: list[dict[str, jax.Array]] = []
    for epoch in range(self._epochs):
      for index in batching.minibatches(
        len(turns), self._minibatch, (*seed, epoch)
      ):
        _, batches = self._pack(turns, columns, index)
        state, scalars = self._step(state, batches)
        seen.append(scalars)
    first = {f'first_{n}': float(seen[0][n]) for n in ('ratio_error', 'kl_ref')}
    means = {
      name: float(np.mean([float(scalars[name]) for scalars in seen]))
      for name in seen[0]
    }
    spread = float(np.mean(columns.advantages != 0))
    return state, {**means, **first, 'nonzero_advantages': spread}

  def _pack(
    self,
    turns: Sequence[types.Turn],
    columns: batching.Columns,
    index: np.ndarray,
  ) -> tuple[list[np.ndarray], tuple[types.Batch, ...]]:
    size = batching.round_up(self._minibatch, self._shapes.micro)
    return batching.pack(turns, columns, index, self._shapes, size)


def check(config: Any) -> None:
  """Refuses names and options that the learner does not know, at start-up.

  Raises: ConfigError with the field, what it holds and what it may hold.
  """
  one_of('loss.old_log_probs', config.loss.old_log_probs, _OLD_LOG_PROBS)
  one_of('loss.kl', config.loss.kl, kl.ESTIMATORS)
  one_of('loss.aggregation', config.loss.aggregation, aggregate.AGGREGATES)
  one_of('algo.estimator', config.algo.estimator, ESTIMATORS)
  number: Any = jax.ShapeDtypeStruct((4,), np.int32)
  real: Any = jax.ShapeDtypeStruct((4,), np.float32)
  mask: Any = jax.ShapeDtypeStruct((4,), bool)
  rows = Rows(number, number, number, number, real, real, mask)
  try:
    jax.eval_shape(_estimator(config), rows)
  except (TypeError, ValueError) as error:
    raise types.ConfigError(f'algo.{config.algo.estimator}: {error}') from error


def _estimator(config: Any) -> Callable[..., jax.Array]:
  """Returns the estimator with its options; one with a depth is given K."""
  name = config.algo.estimator
  options = dict(config.algo.get(name, {}))
  if 'depth' in inspect.signature(ESTIMATORS[name]).parameters:
    options.setdefault('depth', config.env.history)
  return functools.partial(ESTIMATORS[name], **options)


def one_of(field: str, value: str, known: Iterable[str]) -> None:
  """Raises ConfigError unless `value` is among the `known` names."""
  if value not in known:
    raise types.ConfigError(
      f'{field} is {value!r}; expected one of {sorted(known)}.'
    )
