"""The actor: a policy that plays in its environments, in all processes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from hgpo_jax import random_streams, types
from hgpo_jax.multihost import exchange, hosts
from hgpo_jax.random_streams import Key
from hgpo_jax.rollout.codec import Codec
from hgpo_jax.rollout.environments import Environments
from hgpo_jax.rollout.episodes import Collector, Schedule
from hgpo_jax.sampler.batcher import Batcher, Counts
from hgpo_jax.sampler.sampling import Sampling
from hgpo_jax.train import evaluate, rewards, selection, tasks
from hgpo_jax.train import policy as policy_lib


class Actor:
  """Plays rollouts and evaluations with whatever params it is given.

  Attributes:
    config: the experiment.
    environments: its world.
    policy: its model.
    codec: text to token ids and back.
    sampling: how the replies of a rollout are drawn.
    reward: trajectory -> the same with the rewards that the learner uses.
    sampled: what the sampler counted so far, in this process.
  """

  def __init__(self, environments: Environments, policy: policy_lib.Policy):
    c = policy.config
    self.config, self.environments, self.policy = c, environments, policy
    self.codec = Codec(policy.tokenizer, c.sampling.max_reply)
    self.sampling = Sampling(
      temperature=c.sampling.temperature,
      top_k=c.sampling.top_k or None,
      top_p=c.sampling.top_p if c.sampling.top_p < 1 else None,
    )
    self.reward = rewards.REWARDS[c.algo.reward]
    self.sampled = Counts()
    self._shapes = policy.decode_shapes
    schedule = Schedule(
      episodes=hosts.portion(c.rollout.episodes),
      workers=c.rollout.workers,
      lockstep=c.rollout.lockstep,
    )
    self._collector = Collector(
      environments.step_envs,
      environments.agent,
      self.codec,
      schedule,
      environments.check,
    )

  def play(
    self,
    params: types.Params,
    tasks: Sequence[Hashable],
    sampling: Sampling,
    key: Sequence[int],
  ) -> list[types.Trajectory]:
    """Plays one episode per task, each process its share of them.

    Args:
      params: as `Policy.for_sampling` returns them.
      tasks: start states, any number.
      sampling: how replies are drawn.
      key: arguments of `random_streams.key`, used by no other call.

    Returns: all trajectories, in the order of `tasks`, in every process.
    Raises: see `exchange.exchanged`.
    """
    own = hosts.share(len(tasks))
    played: Sequence[types.Trajectory] = ()
    failure: Exception | None = None
    try:
      with self.policy.on_own_mesh():
        batcher = Batcher(
          self.policy.model,
          self._shapes,
          sampling,
          params,
          random_streams.key(*key),
          self.sampled,
        )
        mine = tasks[own.start : own.stop]
        played = self._collector.collect(batcher, mine, own.start)
    except Exception as error:  # of any kind: the other processes wait for us
      failure = error
    return exchange.exchanged(played, failure)

  def rollout(self, params: types.Params, step: int) -> list[types.Trajectory]:
    """Plays the tasks of iteration `step`, each by a group of episodes.

    Up to `rollout.max_groups` of them, until `rollout.groups` are informative.

    Args:
      params: all of the policy's.
      step: iteration, from 0.
    """
    c, environments = self.config.rollout, self.environments
    limit = max(c.groups, c.max_groups)
    numbers = tasks.train_tasks(
      self.config.seed, step, limit, environments.world.num_tasks('train')
    )
    params = self.policy.for_sampling(params)
    played: list[types.Trajectory] = []
    done, missing = 0, c.groups  # groups
    while missing:
      starts = [
        environments.make_task('train', n)
        for n in numbers[done : done + missing]
        for _ in range(c.group_size)
      ]
      purpose = (Key.REFILL, step, done) if done else (Key.ROLLOUT, step)
      key = (self.config.seed, *purpose)
      played += self.play(params, starts, self.sampling, key)
      done += missing
      kept = int(self._informative(played).sum())
      missing = selection.groups_to_play(
        kept, done, wanted=c.groups, limit=limit
      )
    return played

  def selected(
    self, played: Sequence[types.Trajectory]
  ) -> Sequence[types.Trajectory]:
    """Returns the groups of a rollout that the learner uses.

    All of them, unless `rollout.max_groups` asks for informative ones: then the
    first `rollout.groups` of these, or just the first groups if there are none.
    """
    c = self.config.rollout
    if not c.max_groups:
      return played
    kept = np.flatnonzero(self._informative(played))[: c.groups]
    groups = kept if kept.size else range(c.groups)
    size = c.group_size
    return [t for g in groups for t in played[g * size : (g + 1) * size]]

  def evaluate(self, params: types.Params) -> dict[str, dict[str, Any]]:
    """Plays the evaluation games: split -> temperature -> result.

    Games and keys depend on `eval` alone, so that results are paired.
    """
    c, environments = self.config.eval, self.environments
    params = self.policy.for_sampling(params)
    place = 0  # of a split and a temperature
    results: dict[str, dict[str, Any]] = {}
    for split in c.splits:
      numbers = tasks.eval_tasks(
        c.games, environments.world.num_tasks(split), split
      )
      games = [environments.make_task(split, n) for n in numbers]
      for temperature in c.temperatures:
        sampling = Sampling(temperature)
        played = {
          seed: self.play(
            params, games, sampling, (seed, Key.EVALUATION, place)
          )
          for seed in c.seeds
        }
        place += 1
        results.setdefault(split, {})[str(temperature)] = evaluate.by_seed(
          played, environments.world.kind
        )
    return results

  def counts(self) -> dict[str, float]:
    """What was lost so far because it was too long, in this process."""
    return {
      'rollout/truncated_prompts': self.sampled.truncated,
      'rollout/dropped_choices': self.codec.dropped,
    }

  def compilations(self) -> str:
    """How many shapes of prefill and decode were compiled, and the bound.

    Sampling methods that differ in temperature alone share compilations.
    """
    shapes = self.sampled.shapes
    methods = len({how for kind, _, how in shapes if kind == 'decode'})
    bound = self._shapes.max_shapes(methods)
    return f'compiled {len(shapes)} shapes of generation, of {bound}'

  def _informative(self, played: Sequence[types.Trajectory]) -> np.ndarray:
    """Which groups have episodes of different scores: `[G]` bool."""
    scores = [self.reward(t).total_reward for t in played]
    groups = np.arange(len(played)) // self.config.rollout.group_size
    return selection.informative(np.array(scores), groups)
