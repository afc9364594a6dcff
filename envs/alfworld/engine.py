"""ALFWorld's game, played fast: same texts, commands and outcome as TextWorld.

An engine reads domain, grammar and problem from the game's own text and
answers every command as the alfworld package's engine does (`textworld.py` is
that engine behind the same interface), about a thousand times faster. What the
game's authors did not intend is kept: a lamp says "You turn on" every time,
`look` before the first `go to` sees nothing, and what lies "next to" a
receptacle is what was once taken from another one at the same location. Not
kept: the reference cannot load a game that nothing can solve.

Names. Everything public speaks display names, the words of the commands:
'apple 1', 'fridge 1'. Kinds are PDDL types in lower case: 'appletype'.
Locations are opaque strings. `engine.id_of['apple 1']` is the PDDL name.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from envs.alfworld.domain import CHANGING
from envs.alfworld.game import TREATMENTS, Game
from envs.alfworld.goal import Clause
from envs.alfworld.loaded import Action, load
from envs.base import ResetNeeded, Step

NOTHING_HAPPENS = 'Nothing happens.'

_ANYWHERE = tuple(map(Action, ('help', 'inventory', 'look')))
_NO_EFFECT = frozenset(
  {'help', 'inventory', 'look', 'examinereceptacle', 'examineobject'}
)
_TREATMENTS = tuple(
  (f'{treatment.verb}object', treatment.ability)
  for treatment in TREATMENTS.values()
)


class Engine:
  """One game, played; deterministic. `copy()` forks it mid-episode.

  Attributes:
    game: the game.
    objects: names of the objects, in the order of their ids.
    receptacles: names of the receptacles, in the order of their ids.
    kind: name of an object or receptacle -> its PDDL type.
    place: name of a receptacle -> its location; some share one.
    id_of: name -> id.
    goal: clauses that must all hold; see `goal.Clause`.
    won: whether the goal holds now.
  """

  def __init__(self, game: Game):
    """Reads the game.

    Raises:
      GameError: a text of the game is damaged.
      UnsupportedDomain: the game is not of a form that this engine plays.
    """
    self.game = game
    loaded = self._loaded = load(game)
    self.id_of: Mapping[str, str] = loaded.id_of
    self.objects = self._names(row[0] for row in loaded.facts['objecttype'])
    self.receptacles = self._names(
      row[0] for row in loaded.facts['receptacletype']
    )
    self.kind = {
      name: loaded.kinds[self.id_of[name]][0]
      for name in self.objects + self.receptacles
    }
    self.place = {
      loaded.names[receptacle]: place
      for receptacle, place in loaded.place.items()
    }
    self.goal: tuple[Clause, ...] = loaded.goal
    self.won = False
    # Rows that actions change are sets; the others the game's frozen ones.
    self._facts: dict[str, Any] = dict(loaded.facts)
    self._running = False

  def reset(self) -> Step:
    """Starts an episode; the observation holds the room and the task."""
    start = self._loaded.facts
    self._facts = dict(start) | {p: set(start[p]) for p in CHANGING}
    self._running = True
    self._look_around()
    return Step(self._loaded.intro(self._facts), self._admissible, won=self.won)

  def step(self, command: str) -> Step:
    """Plays a command; one that is not admissible changes nothing.

    Raises:
      ResetNeeded: before `reset`, and after the episode has ended.
    """
    if not self._running:
      raise ResetNeeded('step() without a running episode: call reset() first.')
    action = self._options.get(command.strip())
    observation = NOTHING_HAPPENS
    if action is not None:
      place = self.location
      if action.name not in _NO_EFFECT:
        self._apply(action, place)
        self._look_around()
      observation = self._loaded.feedback(action, self._facts, place)
    self._running = not self.won
    return Step(
      observation,
      self._admissible,
      reward=float(self.won),
      terminated=self.won,
      won=self.won,
    )

  def copy(self) -> Engine:
    """The same episode, to be played on independently."""
    twin = copy.copy(self)
    twin._facts = self._facts | {p: set(self._facts[p]) for p in CHANGING}
    return twin

  # What a planner reads.

  @property
  def location(self) -> str:
    """Where the agent is."""
    [(_, place)] = self._facts['atlocation']
    return place

  @property
  def held(self) -> tuple[str, ...]:
    """Names of the held objects: none or one in released games."""
    return self._names(obj for _, obj in self._facts['holds'])

  def contents(self, receptacle: str) -> tuple[str, ...]:
    """Names of the objects in it, whether it is open or not."""
    id_ = self.id_of[receptacle]
    return self._names(o for o, r in self._facts['inreceptacle'] if r == id_)

  def containers(self, obj: str) -> tuple[str, ...]:
    """Names of the receptacles that hold it.

    Usually one, none when held; in some released games an object starts in two.
    """
    id_ = self.id_of[obj]
    return self._names(r for o, r in self._facts['inreceptacle'] if o == id_)

  def fact(self, predicate: str, *names: str) -> bool:
    """Whether a fact holds, such as ('inreceptacle', 'egg 1', 'fridge 1')."""
    return tuple(self.id_of[name] for name in names) in self._facts[predicate]

  def accepts(self, receptacle: str, obj: str) -> bool:
    """Whether the receptacle's kind can contain the object's kind."""
    ids = self.id_of[receptacle], self.id_of[obj]
    return self._loaded.accepts(*ids) is not None

  def _names(self, ids: Iterable[str]) -> tuple[str, ...]:
    return tuple([self._loaded.names[id_] for id_ in sorted(set(ids))])

  # How the game works.

  def _look_around(self) -> None:
    """Finds what can be done now, and whether the game is won."""
    place = self.location
    options = dict(self._loaded.journeys(place))
    for action in self._actions(place):
      options[self._loaded.command(action, place)] = action
    self._options = options
    self._admissible = tuple(sorted(options))
    self.won = self._loaded.goal_holds(self._facts)

  def _actions(self, place: str) -> Iterator[Action]:
    """All that can be done at a place, but for leaving it."""
    yield from _ANYWHERE
    facts = self._facts
    here = self._loaded.receptacles_at[place]
    held = [obj for _, obj in facts['holds']]
    reachable = set()
    for receptacle in here:
      yield Action('examinereceptacle', receptacle)
      if (receptacle,) not in facts['openable']:
        reachable.add(receptacle)
      elif (receptacle,) in facts['opened']:
        reachable.add(receptacle)
        yield Action('closeobject', receptacle)
      else:
        yield Action('openobject', receptacle)
    free = not facts['holdsany']
    for obj, receptacle in facts['inreceptacle']:
      if receptacle in here:
        if (obj,) in facts['toggleable']:  # even in a closed receptacle
          yield Action('toggleobject', receptacle, obj)
        if free and receptacle in reachable and (obj,) in facts['pickupable']:
          yield Action('pickupobject', receptacle, obj)
    for obj in held:
      yield Action('examineobject', '', obj)
      for receptacle in here:
        yield from self._uses(obj, receptacle, receptacle in reachable)
      if self._loaded.is_tool('sliceobject', obj):
        for other, where in facts['objectatlocation']:
          if where == place and (other,) in facts['sliceable']:
            yield Action('sliceobject', '', other, obj)

  def _uses(self, obj: str, receptacle: str, open_: bool) -> Iterator[Action]:
    """What can be done with a held object at a receptacle."""
    if open_ and self._loaded.accepts(receptacle, obj):
      yield Action('putobject', receptacle, obj)
    for name, ability in _TREATMENTS:  # a closed receptacle does too
      if (obj,) in self._facts[ability] and self._loaded.is_tool(
        name, receptacle
      ):
        yield Action(name, receptacle, obj)

  def _apply(self, action: Action, place: str) -> None:
    """Changes the facts as the action's effects say."""
    facts, agent = self._facts, self._loaded.agent
    name, receptacle, obj, _ = action
    match name:
      case 'gotolocation':
        facts['atlocation'].clear()
        facts['atlocation'].add((agent, self._loaded.place[receptacle]))
      case 'openobject':
        facts['opened'].add((receptacle,))
      case 'closeobject':
        facts['opened'].remove((receptacle,))
      case 'pickupobject':
        facts['inreceptacle'].remove((obj, receptacle))
        facts['not_inreceptacle'].add((obj, receptacle))
        facts['objectatlocation'].discard((obj, place))
        facts['holds'].add((agent, obj))
        facts['holdsany'].add((agent,))
      case 'putobject':
        facts['inreceptacle'].add((obj, receptacle))
        facts['not_inreceptacle'].discard((obj, receptacle))
        facts['objectatlocation'].add((obj, place))
        facts['holds'].remove((agent, obj))
        facts['holdsany'].discard((agent,))
      case 'cleanobject':
        facts['isclean'].add((obj,))
      case 'heatobject':
        facts['ishot'].add((obj,))
        facts['iscool'].discard((obj,))
      case 'coolobject':
        facts['iscool'].add((obj,))
        facts['ishot'].discard((obj,))
      case 'toggleobject':
        facts['istoggled'].add((obj,))
      case 'sliceobject':
        facts['issliced'].add((obj,))
