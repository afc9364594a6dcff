"""What one experiment is made of: the policy's faces and its environments."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from hgpo_jax import types
from hgpo_jax.multihost import exchange, hosts
from hgpo_jax.rollout import episodes
from hgpo_jax.rollout.codec import Codec
from hgpo_jax.rollout.player import Player
from hgpo_jax.sampler.sampling import Sampling
from hgpo_jax.train import build as model_lib
from hgpo_jax.train import evaluate, learner, rewards, selection, tasks
from hgpo_jax.train import policy as policy_lib
from hgpo_jax.train.policy import key_of

# What keys are for, beside those of `policy`.
ROLLOUT, EVALUATION, ORDER = range(1, 4)
REFILL = 5
# The smallest value of a field that works, and the largest.
_RANGES = {
  'iterations': (0, math.inf),
  'env.history': (0, math.inf),
  'rollout.groups': (1, math.inf),
  'rollout.max_groups': (0, math.inf),
  'rollout.group_size': (1, math.inf),
  'rollout.rows': (1, math.inf),
  'rollout.slots': (0, math.inf),
  'rollout.workers': (0, math.inf),
  'sampling.temperature': (0, math.inf),
  'sampling.top_k': (0, math.inf),
  'sampling.top_p': (0, 1),
  'algo.gamma': (0, 1),
  'optim.learning_rate': (0, math.inf),
  'optim.epochs': (1, math.inf),
  'optim.minibatch': (1, math.inf),
}


@dataclasses.dataclass(frozen=True)
class Environments:
  """A world as the trainer sees it: callables and words, no environment.

  Attributes:
    world: tasks, their kinds, demonstrations (see envs/world.py).
    make_task: (split, index) -> task.
    agent: the words.
    words: the template as JSON, by which a warm start is told apart.
    step_envs: the environments.
    counts: what befell their servers so far, by name.
  """

  world: Any
  make_task: Callable[[str, int], Any]
  agent: episodes.AgentLayer
  words: Mapping[str, Any]
  step_envs: episodes.StepEnvs
  counts: Callable[[], Mapping[str, float]] = dict


class Run:
  """One experiment: its policy in its environments, playing and learning."""

  def __init__(self, environments: Environments, policy: policy_lib.Policy):
    c = policy.config
    self.config, self.environments, self.policy = c, environments, policy
    self.codec = Codec(policy.tokenizer, c.sampling.max_reply)
    self.rewarded = rewards.REWARDS[c.algo.reward]
    self.sampling = Sampling(
      temperature=c.sampling.temperature,
      top_k=c.sampling.top_k or None,
      top_p=c.sampling.top_p if c.sampling.top_p < 1 else None,
    )
    self.player = Player(
      environments.step_envs,
      environments.agent,
      self.codec,
      policy.model,
      policy.decode_shapes,
      episodes.Schedule(
        episodes=hosts.portion(c.rollout.rows),
        workers=c.rollout.workers,
        lockstep=c.rollout.lockstep,
      ),
    )

  def make_learner(self) -> learner.Learner:
    """Builds the learner for what `rollout` samples."""
    policy, temperature = self.policy, self.sampling.scored_temperature
    reference = None
    if policy.model != policy.base:
      reference = policy.score(temperature, policy.base)
    return learner.Learner(
      self.config,
      policy.score(temperature),
      policy.shapes,
      reference,
      policy.placed,
      policy.values() if policy.has_critic else None,
    )

  def rollout(self, params: Any, step: int) -> list[types.Trajectory]:
    """Plays one iteration's tasks, each by a group of episodes.

    Up to `rollout.max_groups` of them, until `rollout.groups` can teach.
    """
    c, environments = self.config.rollout, self.environments
    limit = max(c.groups, c.max_groups)
    numbers = tasks.train_tasks(
      self.config.seed, step, limit, environments.world.num_tasks('train')
    )
    params = self.policy.for_sampling(params)
    played: list[types.Trajectory] = []
    done, more = 0, c.groups
    while more:
      episodes = [
        environments.make_task('train', n)
        for n in numbers[done : done + more]
        for _ in range(c.group_size)
      ]
      purpose = (REFILL, step, done) if done else (ROLLOUT, step)
      key = (self.config.seed, *purpose)
      played += self._play(params, episodes, key, self.sampling)
      done += more
      kept = int(self._informative(played).sum())
      more = selection.groups_to_play(kept, done, wanted=c.groups, limit=limit)
    return played

  def _play(
    self,
    params: Any,
    episodes: Sequence[Any],
    key: tuple[int, ...],
    sampling: Sampling,
  ) -> list[types.Trajectory]:
    """Plays one episode per task, each process its share of them.

    Args:
      params: as `Policy.for_sampling` gives them.
      episodes: their tasks.
      key: what `key_of` makes a key of.
      sampling: how replies are drawn.
    """

    def play(own: range) -> list[types.Trajectory]:
      mine = episodes[own.start : own.stop]
      with self.policy.on_own_mesh():
        return self.player.play(
          params, mine, key_of(*key), sampling, first=own.start
        )

    return exchange.exchanged(play, episodes)

  def teaching(
    self, played: Sequence[types.Trajectory]
  ) -> Sequence[types.Trajectory]:
    """Returns the groups of a rollout that are learned from.

    All of them, unless `rollout.max_groups` asks for some that can teach; then
    the first such `rollout.groups`, or just the first ones where none can.
    """
    c = self.config.rollout
    if not c.max_groups:
      return played
    found = np.flatnonzero(self._informative(played))[: c.groups]
    groups = found if found.size else range(c.groups)
    size = c.group_size
    return [t for g in groups for t in played[g * size : (g + 1) * size]]

  def _informative(self, played: Sequence[types.Trajectory]) -> np.ndarray:
    found = [sum(u.reward for u in self.rewarded(t).turns) for t in played]
    groups = np.arange(len(played)) // self.config.rollout.group_size
    return selection.informative(np.array(found), groups)

  def evaluate(self, params: Any) -> dict[str, dict[str, Any]]:
    """Plays the evaluation games: split -> temperature -> result.

    Games and keys depend on `eval` alone, so that results are paired.
    """
    c, environments = self.config.eval, self.environments
    params = self.policy.for_sampling(params)
    place = 0
    results: dict[str, dict[str, Any]] = {}
    for split in c.splits:
      numbers = tasks.eval_tasks(
        c.games, environments.world.num_tasks(split), split
      )
      games = [environments.make_task(split, n) for n in numbers]
      for temperature in c.temperatures:
        played = {
          seed: self._play(
            params, games, (seed, EVALUATION, place), Sampling(temperature)
          )
          for seed in c.seeds
        }
        place += 1
        results.setdefault(split, {})[str(temperature)] = evaluate.by_seed(
          played, environments.world.kind
        )
    return results


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses a config that cannot work, before anything is made.

  Raises: ConfigError with the field, what it holds and what it may hold.
  """
  learner.check(config)
  model_lib.check(config)
  flat = config.to_dict()
  for field, (least, most) in _RANGES.items():
    value = functools.reduce(operator.getitem, field.split('.'), flat)
    if not least <= value <= most:
      wanted = f'at least {least}' if most == math.inf else f'{least} to {most}'
      raise types.ConfigError(f'{field} is {value}; expected {wanted}.')
  types.one_of('algo.reward', config.algo.reward, rewards.REWARDS)
  c = config.rollout
  if 0 < c.max_groups < c.groups:
    raise types.ConfigError(
      f'rollout.max_groups is {c.max_groups}; expected 0 or at least '
      f'rollout.groups={c.groups}.'
    )


def check_games(
  config: ml_collections.ConfigDict, environments: Environments
) -> None:
  """Refuses splits that the world does not have, before anything is played.

  Raises: ConfigError that names the split; what the world itself raises.
  """
  for split in config.eval.splits if config.eval.games >= 0 else ():
    tasks.eval_tasks(
      config.eval.games, environments.world.num_tasks(split), split
    )
