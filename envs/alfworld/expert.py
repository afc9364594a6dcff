"""An expert that plays any game from its state, and its demonstrations.

It decides from the engine's state alone, not from its own earlier commands,
so it can take over after the mistakes of another policy (as in DAgger, Ross et
al. 2011, https://arxiv.org/abs/1011.0686). What it remembers is which places
have been seen; objects elsewhere it may pretend not to know of.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable

from envs.alfworld.engine import Engine
from envs.alfworld.game import TREATMENTS, Game
from envs.base import GameError
from envs.world import Demonstrated

# Property that a goal can ask for -> what gives it.
_TREATMENTS = {treatment.result: treatment for treatment in TREATMENTS.values()}


@dataclasses.dataclass(frozen=True)
class Errand:
  """What a goal asks for; kinds as the engine writes them ('appletype').

  Attributes:
    target: kind of the object.
    count: how many of it, 1 or 2, in one and the same receptacle.
    destination: kind of receptacle to bring it to; '' for a lamp's light.
    treatment: 'isclean', 'ishot', 'iscool', or ''.
    lamp: kind of lamp to hold it under, or ''.
  """

  target: str
  count: int = 1
  destination: str = ''
  treatment: str = ''
  lamp: str = ''


def read_errand(engine: Engine) -> Errand:
  """Understands the goals of all six task types."""
  atoms = {atom for clause in engine.goal for atom in clause.atoms}
  kinds = {x[1]: x[2] for x in atoms if x[0] == 'objecttype'}
  lamps = {x[1] for x in atoms if x[0] == 'istoggled'}
  targets = {kind for name, kind in kinds.items() if name not in lamps}
  places = {x[2] for x in atoms if x[0] == 'receptacletype'}
  treatments = {x[0] for x in atoms} & set(_TREATMENTS)
  if len(targets) != 1 or len(places) + len(lamps) != 1 or len(treatments) > 1:
    raise GameError(
      f'{engine.game.name}: the expert does not understand the goal '
      f'{engine.goal}; it knows the six task types of ALFWorld. Play the '
      "game's stored walkthrough instead."
    )
  return Errand(
    target=targets.pop(),
    count=len(kinds) - len(lamps),
    destination=places.pop() if places else '',
    treatment=treatments.pop() if treatments else '',
    lamp=kinds[lamps.pop()] if lamps else '',
  )


class Expert:
  """Advises the next command in an engine that others step."""

  def __init__(
    self,
    engine: Engine,
    rng: random.Random,
    explore: float = 0.0,
    shuffle: bool = True,
  ):
    """Starts with an episode; make another expert for another episode.

    Args:
      engine: after `reset()`; the expert reads it and never steps it.
      rng: draws the order of search and the places that are worth a look.
      explore: in [0, 1]. It looks into a place that holds nothing wanted with
        this probability: 1 searches as one who knows nothing, 0 goes straight
        to where things are.
      shuffle: search in random order; else as places are numbered, which a
        policy with a short memory can imitate.
    """
    self._engine, self._errand = engine, read_errand(engine)
    places = [x for x in engine.receptacles if x in engine.place]
    places.sort(key=_number)
    if shuffle:
      rng.shuffle(places)
    self._places = tuple(places)
    self._worth = {x for x in places if rng.random() < explore}
    self._seen: set[str] = set()

  def observe(self) -> None:
    """Notes what can be seen now; needed after moves without an `act()`."""
    for place in self._places:
      if self._here(place) and not self._closed(place):
        self._seen.add(place)

  def act(self) -> str:
    """The next command; 'look' where there is nothing left to do."""
    self.observe()
    if not self._engine.held:
      return self._fetch(self._wanted(), self._errand.target)
    held = self._engine.held[0]
    if not self._suits(held):
      return self._put_aside(held)
    if self._errand.lamp:
      return self._light()
    return self._bring(held)

  def _bring(self, held: str) -> str:
    """Treats the held object if need be, and takes it to its destination."""
    engine, result = self._engine, self._errand.treatment
    if result and not engine.fact(result, held):
      treatment = _TREATMENTS[result]
      kind = f'{treatment.tool.lower()}type'
      tools = [x for x in self._places if engine.kind[x] == kind]
      if not tools:
        return 'look'
      tool = min(tools, key=lambda x: not self._here(x))
      return self._go(tool) or f'{treatment.verb} {held} with {tool}'
    return self._put(held, self._destination())

  def _light(self) -> str:
    """Goes to a lamp, with the object in hand, and turns it on."""
    engine, kind = self._engine, self._errand.lamp
    lamps = self._holders(x for x in engine.objects if engine.kind[x] == kind)
    for place, lamp in lamps.items():
      if place in self._seen:
        return self._go(place) or f'use {lamp}'
    return self._search(lamps, kind)

  def _destination(self) -> str | None:
    """The place for all of them: that which has the most of them already."""
    engine = self._engine
    holding = bool(engine.held)

    def rank(place: str) -> tuple[int, bool, bool]:
      # What is near counts only with something in hand: otherwise two places
      # with one object each would be left for each other for ever.
      near = holding and self._here(place)
      return len(self._done(place)), near, not self._closed(place)

    kind = self._errand.destination
    places = [x for x in self._places if engine.kind[x] == kind]
    return max(places, key=rank, default=None)

  def _done(self, place: str) -> list[str]:
    """The objects there that fulfil the goal."""
    treatment = self._errand.treatment
    return [
      x
      for x in self._engine.contents(place)
      if self._suits(x) and (not treatment or self._engine.fact(treatment, x))
    ]

  def _wanted(self) -> list[str]:
    """The objects of which one is to be fetched next."""
    place = self._destination() if self._errand.destination else None
    done = self._done(place) if place else []
    suiting = (x for x in self._engine.objects if self._suits(x))
    return [x for x in suiting if x not in done]

  def _suits(self, thing: str) -> bool:
    """Whether the goal may be reached with this object."""
    engine, treatment = self._engine, self._errand.treatment
    return (
      engine.kind[thing] == self._errand.target
      and engine.fact('pickupable', thing)
      and (not treatment or engine.fact(_TREATMENTS[treatment].ability, thing))
    )

  def _fetch(self, wanted: list[str], kind: str) -> str:
    """Takes one that is in sight or was seen; else looks for one."""
    holders = self._holders(wanted)
    for place in self._places:
      if place in holders and place in self._seen:
        return (
          self._go(place)
          or self._open(place)
          or f'take {holders[place]} from {place}'
        )
    return self._search(holders, kind)

  def _holders(self, things: Iterable[str]) -> dict[str, str]:
    """Places that hold one of the things -> that thing."""
    containers = self._engine.containers
    return {place: x for x in things for place in containers(x)}

  def _search(self, holders: Iterable[str], kind: str) -> str:
    """Looks into the next unseen place, likely ones first."""
    holders = set(holders)
    left = [
      x
      for x in self._places
      if x not in self._seen and (x in holders or x in self._worth)
    ]
    if not left:
      return 'look'
    place = min(left, key=lambda x: not self._likely(x, kind))
    return self._go(place) or self._open(place) or f'examine {place}'

  def _likely(self, place: str, kind: str) -> bool:
    """Whether the kind is found there; a lamp stands in the open."""
    engine = self._engine
    if kind == self._errand.lamp:
      return not engine.fact('openable', place)
    things = (x for x in engine.objects if engine.kind[x] == kind)
    return any(engine.accepts(place, x) for x in things)

  def _put_aside(self, held: str) -> str:
    """Gets rid of what is of no use, as near and as simply as possible."""
    places = [x for x in self._places if self._engine.accepts(x, held)]
    place = min(
      places,
      key=lambda x: (not self._here(x), self._closed(x)),
      default=None,
    )
    return self._put(held, place)

  def _put(self, held: str, place: str | None) -> str:
    if place is None:
      return 'look'
    return self._go(place) or self._open(place) or f'move {held} to {place}'

  def _go(self, place: str) -> str:
    return '' if self._here(place) else f'go to {place}'

  def _open(self, place: str) -> str:
    return f'open {place}' if self._closed(place) else ''

  def _here(self, place: str) -> bool:
    return self._engine.place[place] == self._engine.location

  def _closed(self, place: str) -> bool:
    fact = self._engine.fact
    return fact('openable', place) and not fact('opened', place)


@dataclasses.dataclass(frozen=True)
class Demonstration:
  """An episode and whether it was won."""

  steps: tuple[Demonstrated, ...]
  won: bool


def demonstration(
  game: Game,
  seed: int,
  explore: float,
  max_turns: int,
  noise: float = 0.0,
  shuffle: bool = True,
) -> Demonstration:
  """Plays one episode with the expert.

  Args:
    game: any of the six types.
    seed: with the game's name decides the search and the noise.
    explore: see `Expert`.
    max_turns: where the episode is cut, in turns.
    noise: probability that a random admissible command is played instead, so
      that the expert shows how to recover.
    shuffle: see `Expert`.
  """
  rng = random.Random(f'demonstration {game.name} {seed}')
  engine = Engine(game)
  step = engine.reset()
  steps: list[Demonstrated] = []
  expert = Expert(engine, rng, explore, shuffle)
  while not step.won and len(steps) < max_turns:
    action = advice = expert.act()
    if rng.random() < noise:
      action = rng.choice(step.admissible)
    steps.append(Demonstrated(step, action, advice))
    step = engine.step(action)
  return Demonstration(tuple(steps), step.won)


def solve(game: Game, max_turns: int = 50) -> tuple[str, ...] | None:
  """Commands that win the game within `max_turns`, or None."""
  played = demonstration(game, 0, explore=0.0, max_turns=max_turns)
  return tuple(step.action for step in played.steps) if played.won else None


def _number(name: str) -> tuple[str, int]:
  """'cabinet 10' -> ('cabinet', 10), so that 10 follows 9."""
  kind, _, number = name.rpartition(' ')
  return (kind, int(number)) if number.isdigit() else (name, 0)
