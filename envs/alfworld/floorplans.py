"""What the alfworld package ships: rooms, tables of types, domain and goals.

Only data files are read, and two modules of plain tables are run by path, so
that this works where alfworld is installed without its compiled dependencies.
Source: alfworld 0.4.2, https://github.com/alfworld/alfworld (MIT).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envs.base import GameError

# A lamp stands on one of these in every released game that has one.
LAMP_STANDS = frozenset({'SideTable', 'Desk', 'Dresser', 'Shelf'})
# Metres per location unit, degrees per rotation unit (released loc_* names).
_GRID, _TURN = 0.25, 90
_BESIDE = 50.0  # metres; invented spots lie outside every floor plan


@dataclasses.dataclass(frozen=True)
class Receptacle:
  """A fixed place that holds objects.

  Attributes:
    id: name in PDDL, as the released games write it.
    type: such as 'Fridge'.
    location: PDDL name of the spot where the agent stands to use it; several
      receptacles may share one.
    position: x, y, z in metres.
  """

  id: str
  type: str
  location: str
  position: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class FloorPlan:
  """One AI2-THOR room: its receptacles, and the types of object seen there."""

  number: int
  room: str
  receptacles: tuple[Receptacle, ...]
  object_types: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Tables:
  """What may be done with what; every value is sorted.

  Attributes:
    can_contain: receptacle type -> object types that may be put there.
    abilities: 'cleanable', 'heatable', 'coolable', 'sliceable' -> types.
    portable: types that the agent can pick up.
    openable: receptacle types with a door or a lid.
    vessels: portable types that can hold objects themselves.
    rooms: task type -> kinds of room where it makes sense.
    goals: task type -> (PDDL goal, sentences), both with {obj} and {recep}.
    train_plans: floor plans of `train` and `valid_seen`.
    held_out_plans: floor plans of `valid_unseen`.
  """

  can_contain: Mapping[str, tuple[str, ...]]
  abilities: Mapping[str, tuple[str, ...]]
  portable: tuple[str, ...]
  openable: tuple[str, ...]
  vessels: tuple[str, ...]
  rooms: Mapping[str, tuple[str, ...]]
  goals: Mapping[str, tuple[str, tuple[str, ...]]]
  train_plans: tuple[int, ...]
  held_out_plans: tuple[int, ...]


def mangle(name: str) -> str:
  """'Egg|+00.11|-01.00' -> 'Egg_bar__plus_00_dot_11_bar__minus_01_dot_00'."""
  for sign, word in ('|', 'bar'), ('-', 'minus'), ('+', 'plus'), ('.', 'dot'):
    name = name.replace(sign, f'_{word}_')
  return name


def entity_id(kind: str, position: tuple[float, float, float]) -> str:
  """The PDDL name of an entity of type `kind` at `position`, in metres."""
  return mangle('|'.join([kind, *(f'{x:+06.2f}' for x in position)]))


def package_file(relative: str) -> Path:
  """A file of the installed alfworld package, found without importing it."""
  spec = importlib.util.find_spec('alfworld')
  if spec is None or not spec.submodule_search_locations:
    raise GameError(
      'The alfworld package is not installed; its floor plans are needed to '
      'generate games. Run `pip install --no-deps alfworld` (its data alone '
      'is enough here), or play downloaded games instead.'
    )
  path = Path(spec.submodule_search_locations[0], relative)
  if not path.is_file():
    raise GameError(
      f'{path} is missing from the installed alfworld package; version 0.4.2 '
      'is known to have it. Reinstall it: `pip install --no-deps alfworld`.'
    )
  return path


@functools.lru_cache(maxsize=4)
def package_text(relative: str) -> str:
  """The text of one of the package's files, such as 'data/alfred.pddl'."""
  return package_file(relative).read_text(encoding='utf-8')


@functools.lru_cache(maxsize=1)
def load_tables() -> Tables:
  """Reads the package's constants and goals."""
  constants = runpy.run_path(str(package_file('gen/constants.py')))
  goals = runpy.run_path(str(package_file('gen/goal_library.py')))['gdict']
  fixed = {
    kind: tuple(sorted(x for x in objects if not x.endswith('Sliced')))
    for kind, objects in constants['VAL_RECEPTACLE_OBJECTS'].items()
    if kind not in constants['MOVABLE_RECEPTACLES_SET']
  }
  return Tables(
    can_contain=fixed,
    abilities={
      kind.lower(): tuple(sorted(types))
      for kind, types in constants['VAL_ACTION_OBJECTS'].items()
    },
    portable=tuple(sorted({x for objects in fixed.values() for x in objects})),
    openable=tuple(sorted(constants['OPENABLE_CLASS_LIST'])),
    vessels=tuple(sorted(constants['MOVABLE_RECEPTACLES'])),
    rooms={
      task: tuple(sorted(rooms))
      for task, rooms in constants['GOALS_VALID'].items()
    },
    goals={
      # '#' stands for the '-' of a typed variable there.
      task: (entry['pddl'].replace('#', '-'), tuple(entry['templates']))
      for task, entry in goals.items()
    },
    train_plans=tuple(sorted(constants['TRAIN_SCENE_NUMBERS'])),
    held_out_plans=tuple(sorted(constants['TEST_SCENE_NUMBERS'])),
  )


@functools.lru_cache(maxsize=256)
def load_floor_plan(number: int) -> FloorPlan:
  """Reads floor plan `number`: 1-30, 201-230, 301-330 or 401-430."""
  stem = f'gen/layouts/FloorPlan{number}'
  points = _package_json(f'{stem}-openable.json')
  types = _package_json(f'{stem}-objects.json')
  placed = [_placed(name, points[name]) for name in sorted(points)]
  return FloorPlan(
    number=number,
    room=_room(number),
    receptacles=(*placed, *_unplaced(types, {r.type for r in placed})),
    object_types=tuple(sorted(types)),
  )


def _package_json(relative: str) -> Any:
  return json.loads(package_file(relative).read_text(encoding='utf-8'))


def _placed(name: str, point: list[float]) -> Receptacle:
  """'Sink|x|y|z|SinkBasin' and where the agent stands to use it."""
  parts = name.split('|')
  x, y, z = (float(part) for part in parts[1:4])
  return Receptacle(
    id=mangle(name),
    type=parts[4] if len(parts) > 4 else parts[0],
    location=_location(*point),
    position=(x, y, z),
  )


def _unplaced(types: list[str], placed: set[str]) -> list[Receptacle]:
  """Places that the room has but whose standing point is not recorded.

  The released games have them too (a toilet, a garbage can, a toaster); each
  gets a spot of its own beside the floor plan.
  """
  kinds = sorted((set(types) & set(load_tables().can_contain)) - placed)
  return [
    Receptacle(
      id=entity_id(kind, (_BESIDE, 0.9, rank * 0.5)),
      type=kind,
      location=_location(_BESIDE - 0.5, rank * 0.5, 90, 30),
      position=(_BESIDE, 0.9, rank * 0.5),
    )
    for rank, kind in enumerate(kinds)
  ]


def _location(x: float, z: float, rotation: float, horizon: float) -> str:
  units = (round(x / _GRID), round(z / _GRID), round(rotation / _TURN) % 4)
  return mangle('|'.join(['loc', *map(str, (*units, round(horizon)))]))


def _room(number: int) -> str:
  rooms = {0: 'Kitchen', 2: 'LivingRoom', 3: 'Bedroom', 4: 'Bathroom'}
  return rooms[number // 100]
