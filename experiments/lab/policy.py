"""A scripted player of ALFWorld that knows only what the agent layer shows.

It sees the task, the last K turns, the observation and the offered commands, as
a language model would, and nothing else: what has left the window is forgotten.
So places are searched again, and a treated object is doubted, all the more the
shorter the window is.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import NamedTuple

from experiments.lab import reading
from experiments.lab.reading import Goal, Scene, View, kind_of


class Choice(NamedTuple):
  """A mixture: evenly one of the good moves, or evenly any offered one.

  Attributes:
    good: the good moves, each of them offered.
    offered: all moves, each once.
    skill: probability of the first case.
  """

  good: tuple[str, ...]
  offered: tuple[str, ...]
  skill: float

  def draw(self, rng: random.Random) -> str:
    """Draws a move."""
    return rng.choice(self.good if rng.random() < self.skill else self.offered)

  def draw_other(self, rng: random.Random, action: str) -> str:
    """Draws given that it is not `action`, whose probability is below 1."""
    while (drawn := self.draw(rng)) == action:
      pass
    return drawn

  def probability(self, action: str) -> float:
    """With which `action` is drawn."""
    return self.skill * self.good.count(action) / len(self.good) + (
      1 - self.skill
    ) * self.offered.count(action) / len(self.offered)


Policy = Callable[[View], Choice]


def scripted(view: View, *, skill: float) -> Choice:
  """Takes a good move with probability `skill`, else any offered command.

  Args:
    view: all that it knows.
    skill: in [0, 1]; ties among good moves are broken evenly.
  """
  return Choice(good_moves(view), view.offered, skill)


@functools.lru_cache(maxsize=2**16)  # the same views come back all the time
def good_moves(view: View) -> tuple[str, ...]:
  """The commands that make sense after what the window shows; at least one."""
  goal, scene = reading.read_goal(view.task), reading.read_scene(view)
  if not scene.held:
    moves = _fetch(goal, scene)
  elif kind_of(scene.held) != goal.target:
    moves = _put_aside(scene)
  elif goal.lamp:
    lamps = scene.commands('use', goal.lamp)
    moves = lamps or _look_for(goal.lamp, reading.lamp_stands(), scene)
  elif goal.verb and not scene.treated(goal.verb):
    moves = _treat(goal, scene)
  else:
    moves = _bring(goal, scene)
  return tuple(moves) or view.offered


def _fetch(goal: Goal, scene: Scene) -> list[str]:
  """Takes the object asked for, or looks for one."""
  # Of two, the first may already lie where it belongs.
  done = goal.destination if goal.two else ''
  takes = [x for x in scene.commands('take', goal.target) if kind_of(x) != done]
  homes = reading.places_for(goal.target) - {done}
  return takes or _look_for(goal.target, homes, scene)


def _look_for(thing: str, homes: frozenset[str], scene: Scene) -> list[str]:
  """Goes where `thing` was seen, or looks into a likely unseen place."""
  likely = scene.journeys(homes)
  known = {f'go to {place}' for place in scene.holders(thing)}
  if moves := [x for x in likely if x in known]:
    return moves
  for place in scene.here:
    if kind_of(place) in homes and place not in scene.contents:
      for move in (f'open {place}', f'examine {place}'):
        if move in scene.offered:
          return [move]
  visited = {f'go to {place}' for place in scene.contents}
  return [x for x in likely if x not in visited] or likely


def _treat(goal: Goal, scene: Scene) -> list[str]:
  """Cleans, heats or cools what is held, unless that may be done already."""
  now = scene.commands(goal.verb, goal.target)
  to_tool = now or scene.journeys(frozenset([reading.TOOLS[goal.verb]]))
  if now or scene.treated(goal.verb) is False:
    return to_tool
  return to_tool + _bring(goal, scene)  # the window does not say


def _bring(goal: Goal, scene: Scene) -> list[str]:
  """Puts what is held where it belongs: beside its like, if that was seen."""
  kinds = frozenset([goal.destination])
  started = {x for x in scene.holders(goal.target) if kind_of(x) in kinds}

  def first(moves: list[str]) -> list[str]:
    """The moves that end where one lies already, if there are any."""
    return [x for x in moves if any(x.endswith(p) for p in started)] or moves

  puts = [x for x in scene.commands('move') if kind_of(x) in kinds]
  opens = [x for x in scene.commands('open') if kind_of(x) in kinds]
  journeys = scene.journeys(kinds)
  if started and not any(x.endswith(p) for p in started for x in puts + opens):
    puts, opens = [], []
  return first(puts) or first(opens) or first(journeys)


def _put_aside(scene: Scene) -> list[str]:
  """Gets rid of what is of no use."""
  homes = reading.places_for(kind_of(scene.held))
  return (
    scene.commands('move') or scene.commands('open') or scene.journeys(homes)
  )
