"""ALFWorld as a world: games from files or a seed, two engines, an expert."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from envs.agent import Template
from envs.alfworld import expert, games
from envs.alfworld.engine import Engine
from envs.alfworld.game import TASK_TYPES, Game
from envs.alfworld.generate import SPECS, GameSpec, generate_game
from envs.alfworld.prompts import TEMPLATES
from envs.alfworld.textworld import TextworldEngine
from envs.base import GameError, ResetNeeded, Step, Task, UnknownTask
from envs.world import Demonstrated

ENGINES = ('fast', 'textworld')


class AlfWorld:
  """Tasks are games: the index-th of a split, generated or read from files."""

  templates: Mapping[str, Template] = TEMPLATES

  def __init__(
    self,
    data: str = 'generated',
    root: str = '',
    engine: str = 'fast',
    max_turns: int = 50,
    task_types: Sequence[str] = (),
    family: str = 'easy',
    num_receptacles: Sequence[int] = (),
    num_objects: Sequence[int] = (),
    num_distractors: Sequence[int] = (),
    game_seed: int = 0,
    shuffle_search: bool = False,
  ):
    """Options of `env.alfworld` in a config.

    Args:
      data: 'generated', or 'files' for games that alfworld-download fetched.
      root: the folder that holds json_2.1.1/; '' takes $ALFWORLD_DATA.
      engine: 'fast', or 'textworld' for the alfworld package's own.
      max_turns: step limit of an episode.
      task_types: those to play; () plays all six.
      family: generated games' size, one of `generate.SPECS`.
      num_receptacles, num_objects, num_distractors: (least, most) where they
        differ from the family's; see `GameSpec`.
      game_seed: other seed, other generated games.
      shuffle_search: whether the expert searches in random order.
    """
    if data not in ('generated', 'files') or engine not in ENGINES:
      raise GameError(
        f"got data={data!r}, engine={engine!r}; expected data 'generated' or "
        f"'files' and engine one of {ENGINES}."
      )
    if family not in SPECS:
      raise GameError(f'family is {family!r}; expected one of {sorted(SPECS)}.')
    self._data, self._root = data, root or None
    self._fast, self._max_turns = engine == 'fast', max_turns
    self._task_types, self._game_seed = (
      tuple(task_types) or TASK_TYPES,
      game_seed,
    )
    self._shuffle_search = shuffle_search
    sizes = {
      'num_receptacles': num_receptacles,
      'num_objects': num_objects,
      'num_distractors': num_distractors,
    }
    changes: dict[str, Any] = {k: tuple(v) for k, v in sizes.items() if v}
    self._spec: GameSpec = dataclasses.replace(
      SPECS[family], task_types=self._task_types, **changes
    )
    self._paths = functools.cache(self._list_files)
    # Groups reset the same game many times.
    self._game = functools.lru_cache(maxsize=1024)(self._make_game)
    self._read = functools.lru_cache(maxsize=64)(
      lambda task: Engine(self.game(task))
    )

  def make_env(self) -> AlfWorldEnv:
    return AlfWorldEnv(self)

  def num_tasks(self, split: str) -> int | None:
    return None if self._data == 'generated' else len(self._paths(split))

  def kind(self, task: Task) -> str:
    return self.game(task).task_type

  def demonstrate(
    self, task: Task, *, seed: int, explore: float, noise: float
  ) -> list[Demonstrated]:
    played = expert.demonstration(
      self.game(task),
      seed,
      explore,
      self._max_turns,
      noise,
      self._shuffle_search,
    )
    if not played.won:
      return []
    return [
      Demonstrated(
        Step(turn.observation, turn.admissible), turn.action, turn.was_expert
      )
      for turn in played.steps
    ]

  def game(self, task: Task) -> Game:
    """Returns the game of a task; raises UnknownTask if there is none."""
    return self._game(task)

  def start(self, task: Task) -> Engine | TextworldEngine:
    """Returns a fresh engine for a task."""
    if self._fast:  # reading a game takes far longer than copying it
      return self._read(task).copy()
    return TextworldEngine(self.game(task))

  @property
  def max_turns(self) -> int:
    return self._max_turns

  def _list_files(self, split: str) -> tuple[Path, ...]:
    return games.load_games(self._root, split, self._task_types)

  def _make_game(self, task: Task) -> Game:
    if self._data == 'generated':
      return generate_game(self._spec, task.split, task.index, self._game_seed)
    paths = self._paths(task.split)
    if not 0 <= task.index < len(paths):
      raise UnknownTask(
        f'{task.split!r} has no game {task.index}: expected an index from 0 to '
        f'{len(paths) - 1}.'
      )
    return games.read_game(paths[task.index])


class AlfWorldEnv:
  """One episode at a time: an engine and the step limit."""

  def __init__(self, world: AlfWorld):
    self._world = world
    self._engine: Engine | TextworldEngine | None = None
    self._turns = 0

  def reset(self, task: Task) -> Step:
    self._engine, self._turns = self._world.start(task), 0
    return self._engine.reset()

  def step(self, action: str) -> Step:
    if self._engine is None:
      raise ResetNeeded('no episode is running: call reset(task) first.')
    step = self._engine.step(action)
    self._turns += 1
    late = not step.terminated and self._turns >= self._world.max_turns
    if step.terminated or late:
      self._engine = None
    if not late:
      return step
    return Step(step.observation, step.admissible, step.reward, truncated=True)
