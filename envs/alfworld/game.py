"""One ALFWorld game as its file holds it."""

from __future__ import annotations

import dataclasses

TASK_TYPES = (
  'pick_and_place_simple',
  'look_at_obj_in_light',
  'pick_clean_then_place_in_recep',
  'pick_heat_then_place_in_recep',
  'pick_cool_then_place_in_recep',
  'pick_two_obj_and_place',
)


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
