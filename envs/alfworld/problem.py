"""The text of a PDDL problem, laid out as the released games have it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from envs.alfworld import floorplans
from envs.alfworld.floorplans import Receptacle

# Types that the domain's own actions name; a problem must declare them even
# where the room has nothing of the kind.
_DOMAIN_OTYPES = {'Knife', 'ButterKnife'}
_DOMAIN_RTYPES = {'SinkBasin', 'Microwave', 'Fridge'}


@dataclasses.dataclass(frozen=True)
class Placed:
  """An object, by its PDDL name, and the place that holds it at the start."""

  id: str
  type: str
  receptacle: Receptacle


@dataclasses.dataclass(frozen=True)
class Room:
  """A start state: places, objects, and the location where the agent stands."""

  receptacles: tuple[Receptacle, ...]
  objects: tuple[Placed, ...]
  start: str


def problem_text(name: str, room: Room, goal: str) -> str:
  """The PDDL problem: objects, init, goal, in this order.

  Args:
    name: of the problem, without its `plan_` prefix.
    room: the start state.
    goal: `(:goal ...)` with the parenthesis that closes the problem.
  """
  parts = (
    f'\n(define (problem plan_{name})\n(:domain alfred)\n(:objects',
    *_indent(_entities(room)),
    '        )\n\n(:init',
    *_indent(_facts(room)),
    '        )\n',
  )
  return '\n'.join(parts) + goal


def _indent(lines: Iterable[str]) -> Iterable[str]:
  return ('        ' + line for line in lines)


def _entities(room: Room) -> list[str]:
  """Declarations, `name - type`."""
  otypes = _DOMAIN_OTYPES | {thing.type for thing in room.objects}
  rtypes = _DOMAIN_RTYPES | {place.type for place in room.receptacles}
  locations = {place.location for place in room.receptacles} | {room.start}
  return [
    'agent1 - agent',
    *(f'{kind}Type - otype' for kind in sorted(otypes)),
    *(f'{kind}Type - rtype' for kind in sorted(rtypes)),
    *sorted(f'{thing.id} - object' for thing in room.objects),
    *(f'{place.id} - receptacle' for place in room.receptacles),
    *(f'{location} - location' for location in sorted(locations)),
  ]


def _facts(room: Room) -> list[str]:
  """All that holds at the start, one fact a line."""
  tables = floorplans.load_tables()
  places, things = room.receptacles, room.objects
  kinds = {thing.type for thing in things}
  facts = [f'(receptacleType {x.id} {x.type}Type)' for x in places]
  facts += [f'(objectType {x.id} {x.type}Type)' for x in things]
  facts += [
    f'(canContain {holder}Type {kind}Type)'
    for holder in sorted({place.type for place in places})
    for kind in tables.can_contain[holder]
    if kind in kinds
  ]
  properties = {
    'pickupable': tables.portable,
    'isReceptacleObject': tables.vessels,
    **tables.abilities,
  }
  facts += [f'(openable {x.id})' for x in places if x.type in tables.openable]
  for name, types in properties.items():
    facts += [f'({name} {x.id})' for x in things if x.type in types]
  facts.append(f'(atLocation agent1 {room.start})')
  for thing in things:
    facts.append(f'(inReceptacle {thing.id} {thing.receptacle.id})')
  facts += [f'(receptacleAtLocation {x.id} {x.location})' for x in places]
  for thing in things:
    facts.append(f'(objectAtLocation {thing.id} {thing.receptacle.location})')
  return facts
