"""(seed, step) -> task numbers; pure, so that a resumed run sees the same."""

from __future__ import annotations

from hgpo_jax import random_streams, types
from hgpo_jax.random_streams import Seed

# On unbounded splits every seed has a range of fresh tasks of its own.
_RANGE = 10_000_000


def train_tasks(
  seed: int,
  step: int,
  groups: int,
  num_tasks: int | None,
  purpose: Seed = Seed.TRAIN_TASKS,
) -> list[int]:
  """Returns the task numbers of one iteration.

  Args:
    seed: the run's seed.
    step: iteration, from 0.
    groups: how many tasks an iteration plays.
    num_tasks: size of the split, or None where it is unbounded.
    purpose: what the tasks are for; each has an order of its own.

  Returns: `groups` numbers. Unbounded: fresh ones, not played before in
    this run. Bounded: every epoch goes through the split in a new random
    order, so that tasks are played equally often (but for those that a run
    with `rollout.max_groups` draws and does not need).
  """
  places = range(step * groups, (step + 1) * groups)
  if num_tasks is None:
    return [seed * _RANGE + place for place in places]
  if num_tasks < 1:
    raise ValueError('the train split holds no task; check env.* in the config')
  orders = {
    epoch: random_streams.generator((seed, epoch), purpose).permutation(
      num_tasks
    )
    for epoch in {place // num_tasks for place in places}
  }
  return [
    int(orders[place // num_tasks][place % num_tasks]) for place in places
  ]


def demonstration_tasks(
  seed: int, games: int, num_tasks: int | None
) -> list[int]:
  """Returns the task numbers of the expert's episodes.

  Of unbounded splits, tasks that `train_tasks` does not reach; bounded ones in
  a random order, again and again if there are more games than tasks.
  """
  if num_tasks is None:
    return [seed * _RANGE + _RANGE // 2 + i for i in range(games)]
  return (
    train_tasks(seed, 0, games, num_tasks, Seed.DEMONSTRATIONS) if games else []
  )


def eval_tasks(games: int, num_tasks: int | None, split: str) -> list[int]:
  """Returns the first `games` tasks of a split (all of it when games = 0).

  Raises: ConfigError where the split is empty, or all of it is asked for and it
    is unbounded.
  """
  if num_tasks is None:
    if games < 1:
      raise types.ConfigError(
        f'0 games mean the whole split, but {split} is unbounded; give a '
        'number of games.'
      )
    return list(range(games))
  if not num_tasks:
    raise types.ConfigError(f'the world has no games of the split {split!r}.')
  return list(range(min(games, num_tasks) if games else num_tasks))
