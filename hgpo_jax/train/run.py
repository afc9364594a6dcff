"""Refuses configs that cannot work, before anything is made."""

from __future__ import annotations

import functools
import math
import operator

import ml_collections

from hgpo_jax import types
from hgpo_jax.rollout.environments import Environments
from hgpo_jax.train import build as model_lib
from hgpo_jax.train import learner, rewards, tasks

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
