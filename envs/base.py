"""The contract of a text world: strings in, one named record out.

Worlds never import JAX, and load no more than the standard library before they
need it, so that a server process starts in a moment and runs on a machine
without an accelerator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

T = TypeVar('T')


@dataclasses.dataclass(frozen=True)
class Task:
  """One start state of a world: the `index`-th task of a `split`.

  Equal tasks start equal episodes; the episodes of a group share their task.
  """

  split: str
  index: int


@dataclasses.dataclass(frozen=True)
class Step:
  """What an environment answers to `reset` and to every action.

  Attributes:
    observation: the text that the agent reads; the raw text is also the state
      by which step-level estimators group.
    admissible: the actions that the world understands now, sorted.
    reward: the world's own reward of this step, in its own units; what a
      success is worth to a learner is the learner's to choose.
    terminated: the episode reached an end of the task.
    truncated: the episode was cut off by the step limit.
    won: the task is solved.
    parts: what the reward is made of, by name, where a world reports it.
  """

  observation: str
  admissible: tuple[str, ...] = ()
  reward: float = 0.0
  terminated: bool = False
  truncated: bool = False
  won: bool = False
  parts: Mapping[str, float] = dataclasses.field(default_factory=dict)

  @property
  def done(self) -> bool:
    """Whether the episode has ended."""
    return self.terminated or self.truncated


class TextEnv(Protocol):
  """One episode at a time; deterministic given the task and the actions."""

  def reset(self, task: Task) -> Step:
    """Starts the episode of `task`; raises `UnknownTask` if there is none."""
    ...

  def step(self, action: str) -> Step:
    """Plays one action; raises `ResetNeeded` before reset and after the end."""
    ...


# Environment number -> the task to reset it to, or the action to play in it.
# The answer has the same numbers. This is all that a rollout sees of
# environments.
StepEnvs = Callable[[Mapping[int, Task | str]], dict[int, Step]]


class EnvError(Exception):
  """Base of every error that a world raises; the text says the cure."""


class ResetNeeded(EnvError):
  """`step` was called where no episode is running."""


class UnknownTask(EnvError):
  """The split has no task of that index, or the split does not exist."""


def pick(tasks: Sequence[T], task: Task) -> T:
  """Returns the element of a split's `tasks` that a task names.

  Raises: UnknownTask where there is no such index.
  """
  if not 0 <= task.index < len(tasks):
    raise UnknownTask(
      f'{task.split!r} has no task {task.index}: expected an index from 0 to '
      f'{len(tasks) - 1}.'
    )
  return tasks[task.index]


class BadOptions(EnvError):
  """A world has no such option, or not with such a value."""


class GameError(EnvError):
  """A game file is missing, damaged, or in a form that is not understood."""


class UnsupportedDomain(GameError):
  """The fast engine does not know this domain; `engine=textworld` does."""


class ServerError(EnvError):
  """An environment server died, or its answer is not of the protocol."""
