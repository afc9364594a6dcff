"""What stays the same while a game is played: its things, words and rules."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import NamedTuple

from envs.alfworld import goal as goal_lib
from envs.alfworld import pddl
from envs.alfworld.domain import CHANGING, Domain, read_domain
from envs.alfworld.game import Game
from envs.alfworld.grammar import Scene, read_grammar
from envs.alfworld.query import NEGATED, Facts
from envs.base import GameError


class Action(NamedTuple):
  """An action of the domain and the ids it acts on; '' where it has none."""

  name: str
  receptacle: str = ''
  obj: str = ''
  tool: str = ''  # what slices


class LoadedGame:
  """One game, read.

  Ids are lower-case PDDL names; the maps below go from id to id unless they
  say name, which is a display name such as 'apple 1'.

  Attributes:
    facts: predicate -> rows at the start of the game.
    names: id -> name. id_of: name -> id.
    agent: the agent's id.
    kinds: id of an object or receptacle -> its types (one in every released
      game).
    place: receptacle -> location. receptacles_at: location -> receptacles.
    goal: what must hold in the end. goal_holds: whether it does.
  """

  def __init__(self, game: Game):
    self._domain: Domain = read_domain(game.domain)
    signatures = self._domain.signatures
    problem = pddl.read_problem(game.problem, signatures)
    self._grammar, self._task = read_grammar(
      game.grammar, self._domain.parameters, signatures
    )
    self.facts: Facts = {**problem.facts, **dict.fromkeys(NEGATED, frozenset())}
    self.names = display_names(self.facts)
    self.id_of = {name: id_ for id_, name in self.names.items()}
    self.kinds = _kinds(self.facts)
    self.agent = _agent(self.facts)
    self.place = _places(self.facts)
    self.receptacles_at: dict[str, tuple[str, ...]]
    self.receptacles_at = collections.defaultdict(tuple)
    for receptacle, place in sorted(self.place.items()):
      self.receptacles_at[place] += (receptacle,)
    self.goal = goal_lib.read_goal(problem.goal, signatures)
    self.goal_holds = goal_lib.GoalCheck(
      self.goal, problem.types, self.facts, CHANGING
    )
    self._commands: dict[Action, str] = {}
    self._journeys: dict[str, dict[str, Action]] = {}

  def intro(self, facts: Facts) -> str:
    """The first observation."""
    return self._grammar.intro(self._scene(facts), {})

  def feedback(self, action: Action, facts: Facts, place: str) -> str:
    """What the agent reads after the action, played from `place`."""
    text = self._grammar.feedback[action.name]
    return text(self._scene(facts), self._binding(action, place))

  def command(self, action: Action, place: str) -> str:
    """The words that play the action at `place`."""
    words = self._commands.get(action)
    if words is None:
      text = self._grammar.commands[action.name]
      binding = self._binding(action, place)
      words = text(self._scene(self.facts), binding)
      self._commands[action] = words
    return words

  def journeys(self, place: str) -> Mapping[str, Action]:
    """The ways to leave a place: command -> action."""
    if place not in self._journeys:
      actions = [
        Action('gotolocation', receptacle)
        for receptacle, end in self.place.items()
        if end != place  # the reference drops an action without effect
      ]
      commands = {self.command(act, place): act for act in actions}
      self._journeys[place] = dict(sorted(commands.items()))
    return self._journeys[place]

  def is_tool(self, action: str, thing: str) -> bool:
    """Whether the thing serves the action, as a fridge does cooling."""
    return not self._domain.kinds[action].isdisjoint(self.kinds[thing])

  def accepts(self, receptacle: str, obj: str) -> tuple[str, str] | None:
    """The (receptacle type, object type) by which one may hold the other."""
    for kind in self.kinds[receptacle]:
      for inner in self.kinds[obj]:
        if (kind, inner) in self.facts['cancontain']:
          return kind, inner
    return None

  def _scene(self, facts: Facts) -> Scene:
    return Scene(facts, self.names, self._task)

  def _binding(self, action: Action, place: str) -> dict[str, str]:
    """What the parameters of the domain's action stand for."""
    name, receptacle, obj, tool = action
    binding = {'a': self.agent}
    if name == 'gotolocation':
      return binding | {
        'lstart': place,
        'lend': self.place[receptacle],
        'r': receptacle,
      }
    if name not in ('inventory', 'help', 'examinereceptacle', 'examineobject'):
      binding['l'] = place
    if tool:
      return binding | {'co': obj, 'ko': tool}
    if obj:
      binding['o'] = obj
    if receptacle:
      binding['r'] = receptacle
    if name == 'putobject':
      binding['rt'], binding['ot'] = self.accepts(receptacle, obj) or ('', '')
    return binding


def load(game: Game) -> LoadedGame:
  """Reads a game; errors name it.

  Raises:
    GameError: a text of the game is damaged.
    UnsupportedDomain: the game is not of a form that the engine plays.
  """
  try:
    return LoadedGame(game)
  except GameError as error:
    raise type(error)(f'{game.name}: {error}') from error


def display_names(facts: Facts) -> dict[str, str]:
  """Id -> name, for all things that some fact mentions.

  The things of a kind are numbered in the reverse of the order of their ids.
  """
  ids = sorted({id_ for rows in facts.values() for row in rows for id_ in row})
  left = collections.Counter(map(_word, ids))
  names = {}
  for id_ in ids:
    word = _word(id_)
    number = left[word] if '_bar_' in id_ else ''
    names[id_] = f'{word} {number}'
    left[word] -= 1
  return names


def _word(id_: str) -> str:
  """'sink_bar_..._bar_sinkbasin' -> 'sinkbasin'."""
  word, bar, rest = id_.partition('_bar_')
  return word + 'basin' if bar and 'basin' in id_ else word


def _kinds(facts: Facts) -> dict[str, tuple[str, ...]]:
  kinds: dict[str, tuple[str, ...]] = collections.defaultdict(tuple)
  for row in sorted(facts['objecttype'] | facts['receptacletype']):
    kinds[row[0]] += (row[1],)
  return kinds


def _agent(facts: Facts) -> str:
  if len(facts['atlocation']) != 1:
    raise pddl.unsupported(
      f'a problem where agents start at {len(facts["atlocation"])} places'
    )
  [(agent, _)] = facts['atlocation']
  return agent


def _places(facts: Facts) -> dict[str, str]:
  rows = facts['receptacleatlocation']
  place = {row[0]: row[1] for row in rows}
  if len(place) != len(rows):
    raise pddl.unsupported('a receptacle at two locations')
  return place
