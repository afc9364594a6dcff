"""Games in the released format, from a floor plan and a seed alone.

A game is drawn in three steps: what to do and in which plan (an assignment),
which places and objects there are, and the text of it all (`problem.py`). The
expert then plays it to the end; what it cannot solve is drawn anew.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Iterable

from envs.alfworld import floorplans
from envs.alfworld.expert import solve
from envs.alfworld.floorplans import FloorPlan, Receptacle
from envs.alfworld.game import TASK_TYPES, TREATMENTS, Game
from envs.alfworld.problem import Placed, Room, problem_text
from envs.base import GameError, UnknownTask

SPLITS = ('train', 'valid_seen', 'valid_unseen')
LIGHT, TWO = 'look_at_obj_in_light', 'pick_two_obj_and_place'
_MOST_DRAWS, _MOST_TURNS = 100, 50
# A lamp stand or a tool, a source, a destination, and one place to be wrong.
_FEWEST_RECEPTACLES = 4


@dataclasses.dataclass(frozen=True)
class GameSpec:
  """A family of games. A range is (least, most), both included.

  Attributes:
    task_types: the game of index i has type `task_types[i % len]`.
    num_receptacles: places in the room; None takes the whole floor plan. A
      plan with fewer than the least is not used.
    num_objects: how many objects of the kind that the task asks for lie in the
      room; a task that asks for two always finds two.
    num_distractors: other portable objects.
  """

  task_types: tuple[str, ...] = TASK_TYPES
  num_receptacles: tuple[int, int] | None = None
  num_objects: tuple[int, int] = (1, 3)
  num_distractors: tuple[int, int] = (15, 40)

  def __post_init__(self) -> None:
    unknown = sorted(set(self.task_types) - set(TASK_TYPES))
    if unknown or not self.task_types:
      raise ValueError(
        f'GameSpec.task_types: got {self.task_types!r}; choose one or more '
        f'of {TASK_TYPES}.'
      )
    for name, least in (
      ('num_receptacles', _FEWEST_RECEPTACLES),
      ('num_objects', 1),
      ('num_distractors', 0),
    ):
      match getattr(self, name):
        case None if name == 'num_receptacles':
          pass
        case (int(low), int(high)) if least <= low <= high:
          pass
        case bounds:
          raise ValueError(
            f'GameSpec.{name}: got {bounds!r}; expected (least, most), whole '
            f'numbers with {least} <= least <= most.'
          )


EASY = GameSpec(
  num_receptacles=(6, 8), num_objects=(1, 2), num_distractors=(3, 6)
)
FULL = GameSpec()
SPECS = {'easy': EASY, 'full': FULL}


def generate_game(
  spec: GameSpec, split: str, index: int, seed: int = 0
) -> Game:
  """Makes the `index`-th game of `split`, the same on every machine.

  Args:
    spec: the family; a preset of `SPECS` or one's own.
    split: `train` and `valid_seen` share floor plans and draw their games
      independently, so that equal ones are possible but most unlikely;
      `valid_unseen` has floor plans of its own.
    index: from 0; the number of games is not bounded.
    seed: another seed, other games.

  Returns: a game whose `walkthrough` has won it in the fast engine.
  Raises: UnknownTask for a split or an index that does not exist; GameError
    where the alfworld package is missing or the spec cannot be met.
  """
  task_type = generated_type(spec, split, index)
  for attempt in range(_MOST_DRAWS):
    # Seeded by text: that is hashed alike everywhere, unlike a tuple.
    rng = random.Random(f'alfworld game {split} {seed} {index} {attempt}')
    game = _draw_game(rng, spec, split, task_type, f'{split}_{seed}_{index}')
    walkthrough = solve(game, max_turns=_MOST_TURNS) if game else None
    if game and walkthrough:
      return dataclasses.replace(game, walkthrough=walkthrough)
  raise GameError(
    f'No solvable {task_type} game in {_MOST_DRAWS} draws for {spec}; allow '
    'more receptacles or fewer distractors.'
  )


def generated_type(spec: GameSpec, split: str, index: int) -> str:
  """Returns the type of a game without making it; raises UnknownTask."""
  if split not in SPLITS or index < 0:
    raise UnknownTask(
      f'No generated game {index} of split {split!r}; splits are {SPLITS} and '
      'indices start at 0.'
    )
  return spec.task_types[index % len(spec.task_types)]


@dataclasses.dataclass(frozen=True)
class _Assignment:
  """What a game is about: bring a `target` to a `destination` in a plan.

  For the lamp, the destination is the kind of place where it stands.
  """

  plan: FloorPlan
  task_type: str
  target: str
  destination: str

  @property
  def tool(self) -> str:
    """The receptacle type that cleans, heats or cools; '' for none."""
    treatment = TREATMENTS.get(self.task_type)
    return treatment.tool if treatment else ''

  def sources(self, receptacles: Iterable[Receptacle]) -> list[Receptacle]:
    """Where a target may lie at the start without fulfilling the goal."""
    can_contain = floorplans.load_tables().can_contain
    return [
      x
      for x in receptacles
      if self.target in can_contain[x.type]
      and (self.task_type == LIGHT or x.type != self.destination)
    ]


def _draw_game(
  rng: random.Random, spec: GameSpec, split: str, task_type: str, trial: str
) -> Game | None:
  """One draw; None where the things drawn do not fit together."""
  fewest = spec.num_receptacles[0] if spec.num_receptacles else 0
  plan, destinations = rng.choice(_plans(split, task_type, fewest))
  target = rng.choice(sorted(destinations))
  destination = rng.choice(destinations[target])
  assignment = _Assignment(plan, task_type, target, destination)
  receptacles = _draw_receptacles(rng, spec, assignment)
  objects = _draw_objects(rng, spec, assignment, receptacles)
  if objects is None:
    return None
  goal, sentences = floorplans.load_tables().goals[task_type]
  words = {'obj': target, 'recep': destination, 'toggle': 'DeskLamp'}
  lower = {key: word.lower() for key, word in words.items()}
  last = 'DeskLamp' if task_type == LIGHT else destination
  room = Room(receptacles, objects, _start(rng, plan))
  return Game(
    name=f'{task_type}-{target}-None-{last}-{plan.number}/trial_{trial}',
    task_type=task_type,
    domain=floorplans.package_text('data/alfred.pddl'),
    grammar=_grammar(rng.choice(sentences).format(**lower)),
    problem=problem_text(f'trial_{trial}', room, goal.format(**words)),
  )


@functools.lru_cache(maxsize=64)
def _plans(
  split: str, task_type: str, fewest: int
) -> tuple[tuple[FloorPlan, dict[str, tuple[str, ...]]], ...]:
  """The plans that a task can be set in, with what can go where there.

  Returns: per plan, the object types to ask for -> receptacle types to bring
    one to; for the lamp, that is where the lamp stands.
  """
  tables = floorplans.load_tables()
  held_out = split == 'valid_unseen'
  numbers = tables.held_out_plans if held_out else tables.train_plans
  plans = []
  for plan in map(floorplans.load_floor_plan, numbers):
    destinations = _destinations(plan, task_type)
    if destinations and len(plan.receptacles) >= fewest:
      plans.append((plan, destinations))
  if not plans:
    raise GameError(
      f'No floor plan of {split} holds {fewest} receptacles and a {task_type} '
      'task; lower GameSpec.num_receptacles.'
    )
  return tuple(plans)


def _destinations(
  plan: FloorPlan, task_type: str
) -> dict[str, tuple[str, ...]]:
  """Object types of a plan -> receptacle types that the task may name."""
  tables = floorplans.load_tables()
  kinds = {receptacle.type for receptacle in plan.receptacles}
  treatment = TREATMENTS.get(task_type)
  tool = treatment.tool if treatment else ''
  lamp = 'DeskLamp' in plan.object_types
  if (
    plan.room not in tables.rooms[task_type]
    or (tool and tool not in kinds)
    or (task_type == LIGHT and not lamp)
  ):
    return {}
  able = tables.abilities[treatment.ability] if treatment else tables.portable
  destinations = {}
  for target in set(plan.object_types) & set(able) & set(tables.portable):
    homes = {kind for kind in kinds if target in tables.can_contain[kind]}
    if task_type == LIGHT:
      options = kinds & floorplans.LAMP_STANDS if homes else set()
    else:
      # It starts elsewhere, or the goal would hold before the first turn.
      options = {x for x in homes if len(homes) > 1} - {tool}
    if options:
      destinations[target] = tuple(sorted(options))
  return destinations


def _draw_receptacles(
  rng: random.Random, spec: GameSpec, assignment: _Assignment
) -> tuple[Receptacle, ...]:
  """The places in play: those that are needed, and others up to the size."""
  places = assignment.plan.receptacles
  if spec.num_receptacles is None:
    return places
  size = min(rng.randint(*spec.num_receptacles), len(places))
  needs = [
    [x for x in places if x.type == assignment.destination],
    [x for x in places if x.type == assignment.tool],
    assignment.sources(places),
  ]
  chosen: list[Receptacle] = []
  for options in needs:
    if options and not any(x in options for x in chosen):
      chosen.append(rng.choice(options))
  rest = [x for x in places if x not in chosen]
  chosen += rng.sample(rest, max(0, size - len(chosen)))
  return tuple(x for x in places if x in chosen)


def _draw_objects(
  rng: random.Random,
  spec: GameSpec,
  assignment: _Assignment,
  receptacles: tuple[Receptacle, ...],
) -> tuple[Placed, ...] | None:
  """Objects in their places: what the task asks for, a lamp, distractors."""
  tables, plan = floorplans.load_tables(), assignment.plan
  homes = {
    kind: [x for x in receptacles if kind in tables.can_contain[x.type]]
    for kind in plan.object_types
    if kind in tables.portable and kind != assignment.target
  }
  others = [kind for kind, places in homes.items() if places]
  homes[assignment.target] = assignment.sources(receptacles)
  wanted = rng.randint(*spec.num_objects)
  if assignment.task_type == TWO:
    wanted = max(wanted, 2)
  kinds = [assignment.target] * wanted
  if 'DeskLamp' in plan.object_types:
    stands = [x for x in receptacles if x.type in floorplans.LAMP_STANDS]
    homes['DeskLamp'] = stands
    kinds += ['DeskLamp'] if stands else []
  distractors = rng.randint(*spec.num_distractors)
  if not homes[assignment.target] or (distractors and not others):
    return None
  kinds += [rng.choice(others) for _ in range(distractors)]
  return _place(rng, [(kind, rng.choice(homes[kind])) for kind in kinds])


def _place(
  rng: random.Random, pairs: list[tuple[str, Receptacle]]
) -> tuple[Placed, ...]:
  """Gives every object a spot of its own, within a hand of its place."""
  placed: dict[str, Placed] = {}
  for kind, receptacle in pairs:
    x, y, z = receptacle.position
    while True:
      spot = (x + rng.randint(-20, 20) / 100, y, z + rng.randint(-20, 20) / 100)
      name = floorplans.entity_id(kind, spot)
      if name not in placed:
        break
    placed[name] = Placed(name, kind, receptacle)
  return tuple(placed.values())


def _start(rng: random.Random, plan: FloorPlan) -> str:
  """A place to stand that serves no receptacle, so that the room is listed."""
  taken = {receptacle.location for receptacle in plan.receptacles}
  while True:
    x, z = rng.randint(-12, 12), rng.randint(-12, 12)
    location = floorplans.mangle(f'loc|{x}|{z}|{rng.randint(0, 3)}|30')
    if location not in taken:
      return location


@functools.lru_cache(maxsize=1024)
def _grammar(sentence: str) -> str:
  """The package's grammar with the goal in it; games share the string."""
  text = floorplans.package_text('data/alfred.twl2')
  return text.replace('UNKNOWN GOAL', sentence)
