"""Episodes of a game: from any moment of one, with some moves forced."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from envs.base import Step
from experiments.lab.policy import Policy
from experiments.lab.reading import View


class Engine(Protocol):
  """A game that can be forked mid-episode, such as ALFWorld's fast engine."""

  def copy(self) -> Engine:
    """Another engine in the same state."""

  def step(self, command: str) -> Step:
    """Plays a command."""


@dataclasses.dataclass(frozen=True)
class Rules:
  """How episodes run and what they are worth.

  Attributes:
    depth: K, past turns in the player's window.
    max_turns: horizon, in turns from the start of the game.
    gamma: discount per turn.
    reward: of a success, at its turn; there is no other.
    hidden: admissible commands that are not offered to the player.
  """

  depth: int
  max_turns: int
  gamma: float
  reward: float
  hidden: frozenset[str]


class Moment(NamedTuple):
  """h, a point of an episode: all that its future depends on.

  Attributes:
    engine: the game's state; to be copied, never stepped.
    task: the task's sentence.
    window: the last K (observation, command) pairs.
    step: the world's last answer.
    turn: turns taken.
  """

  engine: Engine
  task: str
  window: tuple[tuple[str, str], ...]
  step: Step
  turn: int

  def view(self, rules: Rules) -> View:
    """What the player is shown."""
    offered = tuple([x for x in self.step.admissible if x not in rules.hidden])
    return View(self.task, self.window, self.step.observation, offered)


class Episode(NamedTuple):
  """T turns that followed a moment, and how they ended.

  Attributes:
    observations: `[T]`, before each turn.
    actions: `[T]`, what was played.
    won: whether the last one solved the task.
  """

  observations: tuple[str, ...]
  actions: tuple[str, ...]
  won: bool

  def discounted(self, rules: Rules) -> float:
    """The return from the first of these turns on."""
    return rules.reward * rules.gamma ** (len(self.actions) - 1) * self.won


def play(
  moment: Moment,
  rules: Rules,
  policy: Policy,
  rng: random.Random,
  forced: Sequence[str] = (),
) -> Episode:
  """Plays to the end: first the forced commands, then the policy's."""
  observations: list[str] = []
  actions: list[str] = []
  moment = fork(moment)
  while not moment.step.won and moment.turn < rules.max_turns:
    if len(actions) < len(forced):
      action = forced[len(actions)]
    else:
      action = policy(moment.view(rules)).draw(rng)
    observations.append(moment.step.observation)
    actions.append(action)
    moment = _advance(moment, action, rules)
  return Episode(tuple(observations), tuple(actions), moment.step.won)


def moment_after(
  moment: Moment, rules: Rules, actions: Sequence[str]
) -> Moment:
  """The moment that some commands lead to."""
  moment = fork(moment)
  for action in actions:
    moment = _advance(moment, action, rules)
  return moment


def fork(moment: Moment) -> Moment:
  """The same moment with an engine of its own."""
  return moment._replace(engine=moment.engine.copy())


def _advance(moment: Moment, action: str, rules: Rules) -> Moment:
  """The next moment; it takes over the engine, so the old one is spent."""
  window = (*moment.window, (moment.step.observation, action))
  return Moment(
    engine=moment.engine,
    task=moment.task,
    window=window[max(0, len(window) - rules.depth) :],
    step=moment.engine.step(action),
    turn=moment.turn + 1,
  )
