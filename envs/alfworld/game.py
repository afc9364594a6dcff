"""One ALFWorld game as its file holds it."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

TASK_TYPES = (
  'pick_and_place_simple',
  'look_at_obj_in_light',
  'pick_clean_then_place_in_recep',
  'pick_heat_then_place_in_recep',
  'pick_cool_then_place_in_recep',
  'pick_two_obj_and_place',
)


class Treatment(NamedTuple):
  """What three of the task types ask to be done to an object.

  Attributes:
    verb: of the command.
    ability: the fact that an object must have: 'cleanable'.
    result: the fact that it gets: 'isclean'.
    tool: type of the receptacle that does it.
  """

  verb: str
  ability: str
  result: str
  tool: str


# Task type -> the treatment that it asks for.
TREATMENTS = {
  'pick_clean_then_place_in_recep': Treatment(
    'clean', 'cleanable', 'isclean', 'SinkBasin'
  ),
  'pick_heat_then_place_in_recep': Treatment(
    'heat', 'heatable', 'ishot', 'Microwave'
  ),
  'pick_cool_then_place_in_recep': Treatment(
    'cool', 'coolable', 'iscool', 'Fridge'
  ),
}


@dataclasses.dataclass(frozen=True)
class Game:
  """The contents of a `game.tw-pddl` file.

  Attributes:
    name: where it came from, for error messages and tables: a path relative to
      its split, or the generator's description.
    task_type: one of `TASK_TYPES`.
    domain: PDDL domain (text).
    grammar: TextWorld grammar (text), the goal sentence in it.
    problem: PDDL problem (text).
    walkthrough: commands that win from the start; empty when unknown.
  """

  name: str
  task_type: str
  domain: str
  grammar: str
  problem: str
  walkthrough: tuple[str, ...] = ()
