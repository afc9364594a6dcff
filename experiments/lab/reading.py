"""What a window of ALFWorld's text says: the goal, the places, the hands."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import NamedTuple

from envs.alfworld import floorplans, game

# Words of the task's sentence that are neither the object nor the place.
_FILLERS = re.compile(
  r'(a|and|at|clean|cool|examine|find|heat|hot|in|it|look|on|put|some|the|them|'
  r'two|under|with)'
)
_VERBS = {'clean': 'clean', 'hot': 'heat', 'heat': 'heat', 'cool': 'cool'}
LAMP = 'desklamp'
# What treats an object: 'clean' -> 'sinkbasin'.
TOOLS = {x.verb: x.tool.lower() for x in game.TREATMENTS.values()}

_CONTENTS = re.compile(
  r'On the (\w+ \d+), you see ([^.]*)|'
  r'The (\w+ \d+) is open\. In it, you see ([^.]*)'
)
_THING = re.compile(r'(\w+ \d+)')


class View(NamedTuple):
  """All that the agent layer shows in one turn.

  Attributes:
    task: the task's sentence.
    window: the last K (observation, command) pairs, oldest first.
    observation: the current one.
    offered: the commands to choose from.
  """

  task: str
  window: tuple[tuple[str, str], ...]
  observation: str
  offered: tuple[str, ...]


class Goal(NamedTuple):
  """What the task asks for, in the words of the commands.

  Attributes:
    target: kind of object, such as 'mug'.
    destination: kind of place to bring it to, '' for the lamp's light.
    verb: 'clean', 'heat', 'cool' or ''.
    two: whether two of them are asked for.
    lamp: 'desklamp' or ''.
  """

  target: str
  destination: str
  verb: str
  two: bool
  lamp: str


@functools.lru_cache(maxsize=2**12)
def read_goal(task: str) -> Goal:
  """Understands the sentences of the six task types."""
  words = re.findall(r'[a-z]+', task.lower())
  things = [word for word in words if not _FILLERS.fullmatch(word)]
  if len(things) != 2:
    raise ValueError(
      f'Got the task {task!r}, expected one object and one place or lamp: the '
      "scripted player knows the six task types of ALFWorld's text games."
    )
  target, last = things
  verbs = [_VERBS[word] for word in words if word in _VERBS]
  return Goal(
    target=target,
    destination='' if last == LAMP else last,
    verb=verbs[0] if verbs else '',
    two='two' in words,
    lamp=last if last == LAMP else '',
  )


class Scene(NamedTuple):
  """The room as the window shows it.

  Attributes:
    offered: the commands.
    here: the places within reach.
    held: the object in hand, or ''.
    contents: place -> what was last seen in it, less what was taken since.
    texts: observations and commands of the window, newest first.
  """

  offered: tuple[str, ...]
  here: tuple[str, ...]
  held: str
  contents: dict[str, frozenset[str]]
  texts: tuple[str, ...]

  def commands(self, verb: str, thing: str = '') -> list[str]:
    """The offered commands of a verb, to a kind of thing if one is named."""
    start = f'{verb} {thing} ' if thing else f'{verb} '
    return [command for command in self.offered if command.startswith(start)]

  def journeys(self, kinds: frozenset[str]) -> list[str]:
    """The commands that go to places of these kinds."""
    return [x for x in self.commands('go to') if kind_of(x) in kinds]

  def holders(self, thing: str) -> list[str]:
    """The places where a kind of thing was last seen."""
    return [
      place
      for place, things in self.contents.items()
      if any(kind_of(x) == thing for x in things)
    ]

  def treated(self, verb: str) -> bool | None:
    """Whether what is held was treated since taken; None if no text says it."""
    done, taken = f'{verb} the {self.held} ', f'pick up the {self.held} '
    for text in self.texts:
      if done in text or text.startswith(f'{verb} {self.held} '):
        return True
      if taken in text or text.startswith(f'take {self.held} '):
        return False
    return None


def read_scene(view: View) -> Scene:
  """Puts the window together, newer news over older."""
  contents: dict[str, frozenset[str]] = {}
  texts = []
  for observation, command in (*view.window, (view.observation, '')):
    contents.update(_seen(observation))
    _follow(contents, command)
    texts += [observation, command]
  near = [x[8:] for x in view.offered if x.startswith('examine ')]
  held = [x for x in near if kind_of(x) not in _places()]
  return Scene(
    offered=view.offered,
    here=tuple(x for x in near if x not in held),
    held=held[0] if held else '',
    contents=contents,
    texts=tuple(reversed(texts)),
  )


@functools.lru_cache(maxsize=2**14)
def _seen(observation: str) -> dict[str, frozenset[str]]:
  """Place -> what an observation shows in it; nothing of closed places."""
  return {
    m[1] or m[3]: frozenset(_THING.findall(m[2] or m[4]))
    for m in _CONTENTS.finditer(observation)
  }


def _follow(contents: dict[str, frozenset[str]], command: str) -> None:
  """Notes what a command took from a known place, or put there."""
  match command.split(' '):
    case ['take', kind, number, 'from', *place]:
      known = contents.get(' '.join(place))
      if known is not None:
        contents[' '.join(place)] = known - {f'{kind} {number}'}
    case ['move', kind, number, 'to', *place]:
      known = contents.get(' '.join(place))
      if known is not None:
        contents[' '.join(place)] = known | {f'{kind} {number}'}


def kind_of(words: str) -> str:
  """The kind of the last thing named: 'go to cabinet 10' -> 'cabinet'.

  Some rooms call a sink 'sinkbasinbasin', which the tasks do not.
  """
  return words.rsplit(' ', 2)[-2].replace('basinbasin', 'basin')


@functools.lru_cache(maxsize=256)
def places_for(thing: str) -> frozenset[str]:
  """The kinds of places where a kind of thing may lie, by common sense."""
  return _lower(
    place
    for place, things in floorplans.load_tables().can_contain.items()
    if thing in _lower(things)
  )


@functools.lru_cache(maxsize=1)
def lamp_stands() -> frozenset[str]:
  """The kinds of places where a lamp stands."""
  return _lower(floorplans.LAMP_STANDS)


@functools.lru_cache(maxsize=1)
def _places() -> frozenset[str]:
  return _lower(floorplans.load_tables().can_contain)


def _lower(words: Iterable[str]) -> frozenset[str]:
  return frozenset(word.lower() for word in words)
