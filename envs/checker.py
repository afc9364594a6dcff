"""The contract that every world passes, as one function for tests."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from envs.base import ResetNeeded, Step, Task, TextEnv, UnknownTask

# What a policy may write: nothing of it may raise, whatever the state.
NONSENSE = (
  '',
  ' ',
  '\n',
  'xyzzy',
  'LOOK AROUND',
  'go to',
  'take  from ',
  'a' * 5000,
  '打开 冰箱 🍎',
  '\x00\ud800',
  '{"action": [1]} \\ \' " <|im_end|>',
)


class ContractError(AssertionError):
  """A world breaks the contract of `envs.base`; the text says which part."""


class Report(NamedTuple):
  """What a check has seen, so that a test can ask for enough of it."""

  episodes: int
  steps: int
  ended: int
  won: int


def check_env(
  make_env: Callable[[], TextEnv],
  tasks: Sequence[Task],
  *,
  max_steps: int = 30,
  seed: int = 0,
) -> Report:
  """Plays `tasks` with random and nonsensical actions and checks every answer.

  Checked: the types of a step; admissible actions sorted and unique; equal
  steps for equal tasks and actions, in a fresh environment and in a used one;
  nonsense answered and not raised; `ResetNeeded` before the first reset, after
  the end and after a reset that failed; `UnknownTask` for a split or an index
  that does not exist.

  Args:
    make_env: makes a fresh environment.
    tasks: tasks that exist.
    max_steps: actions per episode, at most.
    seed: of the actions.

  Raises: ContractError at the first breach.
  """
  used = make_env()
  _expect_raises(ResetNeeded, lambda: used.step('look'), 'step before reset')
  split = tasks[0].split
  for unknown in (Task('no such split', 0), Task(split, -1)):
    used.reset(tasks[0])
    reset = functools.partial(used.reset, unknown)
    _expect_raises(UnknownTask, reset, f'reset({unknown})')
    _expect_raises(
      ResetNeeded, lambda: used.step('look'), f'step after reset({unknown})'
    )
  episodes = []
  for number, task in enumerate(tasks):
    rng = random.Random(f'{seed} {number}')
    episode = _play(used, task, rng, max_steps)
    _check_replay(make_env(), task, episode, 'a fresh environment')
    _check_replay(used, task, episode, 'a used environment')
    episodes.append(episode)
  last = [steps[-1] for _, steps in episodes]
  return Report(
    episodes=len(episodes),
    steps=sum(len(actions) for actions, _ in episodes),
    ended=sum(step.done for step in last),
    won=sum(step.won for step in last),
  )


_Episode = tuple[list[str], list[Step]]  # T actions, T + 1 steps


def _play(
  env: TextEnv, task: Task, rng: random.Random, max_steps: int
) -> _Episode:
  steps: list[Step] = [env.reset(task)]
  actions: list[str] = []
  check_step(steps[0], f'reset({task})')
  while not steps[-1].done and len(actions) < max_steps:
    pool = steps[-1].admissible if rng.random() < 0.7 else NONSENSE
    action = rng.choice(pool or NONSENSE)
    try:
      step = env.step(action)
    except Exception as error:
      raise ContractError(
        f'step({action!r}) of {task} after {actions} raised {error!r}: '
        'expected a Step; a world answers every text while an episode runs.'
      ) from error
    check_step(step, f'step({action!r}) of {task} after {actions}')
    actions.append(action)
    steps.append(step)
  if steps[-1].done:
    _expect_raises(
      ResetNeeded, lambda: env.step('look'), f'step after the end of {task}'
    )
  return actions, steps


def check_step(step: Step, where: str) -> None:
  """Raises ContractError unless `step` is a well-formed `Step`."""
  _expect(isinstance(step, Step), where, f'got {step!r}, expected a Step')
  admissible = step.admissible
  texts = isinstance(admissible, tuple) and all(
    isinstance(action, str) for action in admissible
  )
  checks = {
    'observation': (isinstance(step.observation, str), 'text'),
    'admissible': (texts, 'a tuple of texts'),
    'reward': (isinstance(step.reward, float), 'a float'),
    'terminated': (isinstance(step.terminated, bool), 'a bool'),
    'truncated': (isinstance(step.truncated, bool), 'a bool'),
    'won': (isinstance(step.won, bool), 'a bool'),
  }
  for name, (right, expected) in checks.items():
    value = getattr(step, name)
    _expect(right, where, f'{name} is {value!r}, expected {expected}')
  _expect(
    list(admissible) == sorted(set(admissible)),
    where,
    f'admissible is {admissible!r}, expected it sorted and without doubles',
  )
  _expect(
    step.terminated or not step.won,
    where,
    'won without terminated: a solved task is at its end',
  )


def _check_replay(
  env: TextEnv, task: Task, episode: _Episode, where: str
) -> None:
  actions, steps = episode
  again = [env.reset(task), *(env.step(action) for action in actions)]
  for i, (old, new) in enumerate(zip(steps, again, strict=True)):
    _expect(
      old == new,
      f'step {i} of {task} in {where} after {actions[:i]}',
      f'got {new}, expected {old} as before: a world is deterministic '
      'given the task and the actions',
    )


def _expect(condition: bool, where: str, what: str) -> None:
  if not condition:
    raise ContractError(f'{where}: {what}.')


def _expect_raises(
  kind: type[Exception], call: Callable[[], object], where: str
) -> None:
  try:
    result = call()
  except kind:
    return
  except Exception as error:
    raise ContractError(
      f'{where} raised {error!r}, expected {kind.__name__}.'
    ) from error
  raise ContractError(f'{where} gave {result!r}, expected {kind.__name__}.')
