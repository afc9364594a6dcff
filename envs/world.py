"""What a world offers beside its environment: tasks, words, demonstrations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, NamedTuple, Protocol

from envs.agent import Template
from envs.base import Step, Task, TextEnv

# Options of worlds that do not say what is played, but where it lies, and how
# fast: runs that differ in them alone are of one experiment.
DataPath = Annotated[str, 'place']
Cache = Annotated[str, 'speed']


class Demonstrated(NamedTuple):
  """One turn of an expert's episode.

  Attributes:
    step: what the player was shown.
    action: what was played: the advice, or a random move that was mixed in.
    advice: the expert's choice in this state; worth cloning either way.
  """

  step: Step
  action: str
  advice: str


class World(Protocol):
  """One world with its options; made by `registry.make_world`.

  Attributes:
    templates: the agent layer's presets, by name.
  """

  templates: Mapping[str, Template]

  def make_env(self) -> TextEnv:
    """Returns a fresh environment; a server hosts many."""
    ...

  def num_tasks(self, split: str) -> int | None:
    """Returns the size of a split, None if it has no end.

    Raises: UnknownTask where there is no such split.
    """
    ...

  def kind(self, task: Task) -> str:
    """Returns the row of the success table that a task belongs to."""
    ...

  def demonstrate(
    self, task: Task, *, seed: int, explore: float, noise: float
  ) -> list[Demonstrated]:
    """Plays a task as an expert; [] where it does not solve it.

    Args:
      task: the start state.
      seed: of the expert's choices.
      explore: in [0, 1], how much it looks around as one who does not know
        where things are.
      noise: share of turns played at random.
    """
    ...
