"""The learner: an iteration's trajectories -> updated params."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence

import jax
import numpy as np
import optax

from hgpo_jax import random_streams, types
from hgpo_jax.config import Config, Optim
from hgpo_jax.random_streams import Seed
from hgpo_jax.sampler.sampling import Sampling
from hgpo_jax.train import batching, estimators, packing, update
from hgpo_jax.train import critic as critic_lib
from hgpo_jax.train import optimizer as optimizer_lib
from hgpo_jax.train import policy as policy_lib


class Learner:
  """Advantages, scoring and optimiser steps; everything is compiled once.

  Attributes:
    optimizer: of the policy.
    critic_optimizer: of the critic; None where there is none.
  """

  def __init__(
    self,
    config: Config,
    score: update.ScoreFn,
    shapes: packing.Shapes,
    reference_score: update.ScoreFn | None = None,
    placed: update.Placed = lambda state: state,
    values: critic_lib.ValueFn | None = None,
  ):
    """Builds the jitted functions of a run.

    Args:
      config: the experiment's `algo`, `loss`, `optim`, `rollout` and `env`.
      score: log-probs and entropy of replies.
      shapes: what turns are packed into.
      reference_score: that of the reference, where it is another model: one
        without adapters, say.
      placed: lays a new state out on the devices.
      values: of the critic, where the estimator is PPO's.
    """
    self._config, self._shapes = config, shapes
    self._epochs = config.optim.epochs
    self._minibatch_size = config.optim.minibatch_turns
    self._rescore = config.loss.old_log_probs == 'score'
    self.optimizer = _adamw(config.optim)
    self.critic_optimizer: optax.GradientTransformation | None = None
    self._estimator: estimators.AdvantageEstimator
    if values is None:
      self._estimator = estimators.GroupEstimator(config)
    else:
      rate = config.algo.ppo.critic_learning_rate
      self.critic_optimizer = _adamw(config.optim, learning_rate=rate)
      self._estimator = critic_lib.Critic(
        config.algo, values, self.critic_optimizer, placed
      )
    self._scorer = update.make_scorer(score)
    self._reference_scorer = self._scorer
    if reference_score is not None:
      self._reference_scorer = update.make_scorer(reference_score)
    self._step = update.make_train_step(
      score, update.make_policy_loss(config.loss), self.optimizer, placed
    )

  def advantages(
    self, trajectories: Sequence[types.Trajectory], seed: Sequence[int]
  ) -> np.ndarray:
    """Returns `[N]` advantages, trajectory after trajectory, turn by turn.

    Raises: ValueError where a critic estimates them: it needs a state.
    """
    return self._estimated(trajectories, seed).advantages

  def log_probs(
    self, params: types.Params, turns: Sequence[types.Turn]
  ) -> np.ndarray:
    """Scores the replies of all turns: `[N, R]` float32."""
    minibatches = self._minibatches(packing.flatten(turns, self._shapes), (0,))
    return self._table(self._scorer, params, minibatches, len(turns))

  def update(
    self,
    state: types.TrainState,
    reference: types.Params,
    trajectories: Sequence[types.Trajectory],
    seed: Sequence[int],
  ) -> tuple[types.TrainState, dict[str, float]]:
    """Learns from one iteration's trajectories.

    Args:
      state: donated.
      reference: the frozen params that the KL is measured to.
      trajectories: whole groups.
      seed: of the order of turns, one per iteration.

    Returns: the new state, and the mean of every scalar over the optimiser
      steps; `first_*` are those of the first step, before anything moved, and
      `sampler_*` compare the sampler's log-probs with the learner's own. While
      the critic is trained alone, those of the policy's steps are missing.
    """
    turns = [turn for t in trajectories for turn in t.turns]
    flat = packing.flatten(turns, self._shapes)
    minibatches = self._minibatches(flat, (*seed, 0))
    estimate = self._estimated(trajectories, seed, state, minibatches)
    sampled = batching.sampled_log_probs(turns, self._shapes.reply)
    count = len(turns)
    reference_table = self._table(
      self._reference_scorer, reference, minibatches, count
    )
    old = sampled
    if self._rescore:
      params = policy_lib.policy_of(state)
      old = self._table(self._scorer, params, minibatches, count)
    trains_policy = self._estimator.is_ready(state)
    steps: list[update.Scalars] = []  # scalars of each optimiser step
    real_tokens = float(np.mean([m.fill() for m in minibatches]))
    for epoch in range(self._epochs):
      if epoch:
        minibatches = self._minibatches(flat, (*seed, epoch))
      for minibatch in minibatches:
        state, step_scalars = self._estimator.update(state, minibatch, estimate)
        if trains_policy:
          batch = minibatch.batch(estimate.advantages, old, reference_table)
          state, policy_scalars = self._step(state, batch)
          step_scalars |= policy_scalars
        steps.append(step_scalars)
    scalars = _summary(jax.device_get(steps))
    if self._rescore:
      scalars |= _mismatch(sampled, old, int(flat.reply_sizes.sum()))
    differs = estimate.advantages.reshape(count, -1) != 0
    return state, {
      **scalars,
      **estimate.scalars,
      'nonzero_advantages': float(np.mean(differs.any(axis=1))),
      'real_tokens': real_tokens,
      'cut_turns': float(flat.cut),
    }

  def _estimated(
    self,
    trajectories: Sequence[types.Trajectory],
    seed: Sequence[int],
    state: types.TrainState | None = None,
    minibatches: Sequence[packing.MiniBatch] = (),
  ) -> estimators.Advantages:
    """Advantages of all turns, changed as the config's controls ask."""
    algo = self._config.algo
    estimate = self._estimator.estimate(trajectories, state, minibatches)
    advantages = estimate.advantages
    if algo.shuffle_advantages:
      rng = random_streams.generator(seed, Seed.SHUFFLED_ADVANTAGES)
      advantages = rng.permutation(advantages)
    return dataclasses.replace(
      estimate, advantages=algo.advantage_sign * advantages
    )

  def _minibatches(
    self, flat: packing.Flat, seed: Sequence[int]
  ) -> list[packing.MiniBatch]:
    """Packs every turn into mini-batches."""
    micro = self._shapes.micro_batches(self._minibatch_size)
    return [
      packing.pack(flat, index, self._shapes, micro)
      for index in batching.minibatches(
        flat.sizes.size, self._minibatch_size, seed
      )
    ]

  def _table(
    self,
    scorer: Callable[[types.Params, types.Batch], jax.Array],
    params: types.Params,
    minibatches: Sequence[packing.MiniBatch],
    count: int,
  ) -> np.ndarray:
    """Scores packed turns; `[count, R]` float32 in the turns' own order."""
    # All of them are dispatched before the first is waited for.
    tables = [
      scorer(params, minibatch.unlabelled()) for minibatch in minibatches
    ]
    return packing.gathered(minibatches, tables, count)


def make_learner(policy: policy_lib.Policy, sampling: Sampling) -> Learner:
  """Builds the learner of a policy.

  Args:
    policy: the experiment's.
    sampling: how the replies that it learns from are drawn.
  """
  temperature = sampling.scored_temperature
  reference = None
  if policy.model != policy.base:
    reference = policy.score(temperature, policy.base)
  return Learner(
    policy.config,
    policy.score(temperature),
    policy.shapes,
    reference,
    policy.placed,
    policy.values() if policy.has_critic else None,
  )


def _summary(steps: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
  """Means over the optimiser steps, and the scalars of the first one."""
  means = {n: float(np.mean([s[n] for s in steps])) for n in steps[0]}
  first = {n: float(steps[0][n]) for n in steps[0]}
  if 'ratio_max' not in first:  # the critic was trained alone
    return means
  return {
    **means,
    'ratio_max': float(max(s['ratio_max'] for s in steps)),
    'first_ratio_error': first['ratio_error'],
    'first_kl_ref': first['kl_ref'],
    # For old log-probs of the sampler; else `_mismatch` replaces them.
    'sampler_kl': first['kl_old'],
    'sampler_ratio_max': first['ratio_max'],
  }


def _mismatch(
  sampled: np.ndarray, scored: np.ndarray, count: int
) -> dict[str, float]:
  """How far the sampler's log-probs are from the learner's.

  Args:
    sampled: `[N, R]` log-probs, 0 on padding.
    scored: `[N, R]` log-probs, 0 on padding.
    count: reply tokens.

  Returns: the k3 estimate of KL(sampler || learner) in nats per token, and the
    largest ratio of the two probabilities of a token, either way.
  """
  d = scored - sampled
  return {
    'sampler_kl': float(np.sum(np.expm1(d) - d) / max(count, 1)),
    'sampler_ratio_max': float(np.exp(np.max(np.abs(d), initial=0))),
  }


def _adamw(optim: Optim, **changes: float) -> optax.GradientTransformation:
  """AdamW with the fields of `optim` that are its arguments."""
  names = inspect.signature(optimizer_lib.make_optimizer).parameters
  return optimizer_lib.make_optimizer(
    **{**{name: getattr(optim, name) for name in names}, **changes}
  )
