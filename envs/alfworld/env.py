"""ALFWorld as a world: games from files or a seed, two engines, an expert."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from envs import options
from envs.agent import Template
from envs.alfworld import expert, games
from envs.alfworld.engine import Engine
from envs.alfworld.game import TASK_TYPES, Game
from envs.alfworld.generate import (
  SPECS,
  GameSpec,
  generate_game,
  generated_type,
)
from envs.alfworld.prompts import TEMPLATES
from envs.alfworld.textworld import TextworldEngine
from envs.base import BadOptions, GameError, ResetNeeded, Step, Task, pick
from envs.world import DataPath, Demonstrated

DATA = ('generated', 'files')
ENGINES = ('fast', 'textworld')


class AlfWorld:
  """Tasks are games: the index-th of a split, generated or read from files."""

  templates: Mapping[str, Template] = TEMPLATES

  def __init__(
    self,
    data: str = 'generated',
    root: DataPath = '',
    engine: str = 'fast',
    max_turns: int = 50,
    task_types: Sequence[str] = (),
    family: str = 'full',
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
      num_receptacles: (least, most) where they differ from the family's; see
        `GameSpec`.
      num_objects: as `num_receptacles`.
      num_distractors: as `num_receptacles`.
      game_seed: other seed, other generated games.
      shuffle_search: whether the expert searches in random order.

    Raises:
      BadOptions: an option does not have one of these values.
    """
    options.one_of(DATA, data=data)
    options.one_of(ENGINES, engine=engine)
    options.one_of(tuple(SPECS), family=family)
    options.at_least(1, max_turns=max_turns)
    self._data, self._root = data, root or None
    self._fast, self.max_turns = engine == 'fast', max_turns
    self._task_types = tuple(task_types) or TASK_TYPES
    self._game_seed, self._shuffle_search = game_seed, shuffle_search
    sizes = {
      'num_receptacles': num_receptacles,
      'num_objects': num_objects,
      'num_distractors': num_distractors,
    }
    changes: dict[str, Any] = {
      name: tuple(size) if isinstance(size, list) else size
      for name, size in sizes.items()
      if size
    }
    try:
      self._spec: GameSpec = dataclasses.replace(
        SPECS[family], task_types=self._task_types, **changes
      )
    except ValueError as error:
      raise BadOptions(str(error)) from error
    self._paths = functools.cache(self._list_files)
    # Groups reset the same game many times.
    self._game = functools.lru_cache(maxsize=1024)(self._make_game)
    self._read = functools.lru_cache(maxsize=64)(
      lambda task: Engine(self.game(task))
    )
    self._walker = AlfWorldEnv(self)  # plays walkthroughs

  def make_env(self) -> AlfWorldEnv:
    """Returns a fresh environment."""
    return AlfWorldEnv(self)

  def num_tasks(self, split: str) -> int | None:
    """Returns the size of a split, None for generated games."""
    if self._data == 'files':
      return len(self._paths(split))
    generated_type(self._spec, split, 0)  # raises for an unknown split
    return None

  def kind(self, task: Task) -> str:
    """Returns the type of a task's game."""
    if self._data == 'generated':
      return generated_type(self._spec, task.split, task.index)
    return games.task_type(self._path(task))

  def demonstrate(
    self, task: Task, *, seed: int, explore: float, noise: float
  ) -> list[Demonstrated]:
    """Plays as the expert, or the game's walkthrough where that fails."""
    game = self.game(task)
    try:
      played = expert.demonstration(
        game, seed, explore, self.max_turns, noise, self._shuffle_search
      )
    except GameError:  # it does not know the goal, or its engine the domain
      if not game.walkthrough:
        raise
    else:
      if played.won:
        return list(played.steps)
    return self._walk(task, game.walkthrough)

  def game(self, task: Task) -> Game:
    """Returns the game of a task; raises UnknownTask if there is none."""
    return self._game(task)

  def start(
    self, task: Task, used: Engine | TextworldEngine | None = None
  ) -> Engine | TextworldEngine:
    """Returns an engine with a task's game in it, not yet reset.

    Args:
      task: whose game.
      used: an engine of this world that is not needed any more; it may be the
        one that is returned.
    """
    if self._fast:  # reading a game takes far longer than copying it
      return self._read(task).copy()
    game = self.game(task)
    if isinstance(used, TextworldEngine):
      used.load(game)
      return used
    return TextworldEngine(game)

  def _walk(self, task: Task, walkthrough: Sequence[str]) -> list[Demonstrated]:
    """Plays the commands in the world's own engine; [] if they do not win."""
    step, turns = self._walker.reset(task), []
    for command in walkthrough:
      if step.done:
        break
      turns.append(Demonstrated(step, command, command))
      step = self._walker.step(command)
    return turns if step.won else []

  def _list_files(self, split: str) -> tuple[Path, ...]:
    return games.load_games(self._root, split, self._task_types)

  def _make_game(self, task: Task) -> Game:
    if self._data == 'generated':
      return generate_game(self._spec, task.split, task.index, self._game_seed)
    return games.read_game(self._path(task))

  def _path(self, task: Task) -> Path:
    return pick(self._paths(task.split), task)


class AlfWorldEnv:
  """One episode at a time: an engine and the step limit."""

  def __init__(self, world: AlfWorld):
    self._world = world
    self._engine: Engine | TextworldEngine | None = None
    self._running, self._turns = False, 0

  def reset(self, task: Task) -> Step:
    """Starts the episode of `task`; raises UnknownTask if there is none."""
    self._running = False  # an unknown task ends the old episode too
    self._engine = self._world.start(task, self._engine)
    step = self._engine.reset()
    self._running, self._turns = True, 0
    return step

  def step(self, action: str) -> Step:
    """Plays one action; raises ResetNeeded where no episode runs."""
    if self._engine is None or not self._running:
      raise ResetNeeded('no episode is running: call reset(task) first.')
    step = self._engine.step(action)
    self._turns += 1
    late = not step.terminated and self._turns >= self._world.max_turns
    self._running = not step.terminated and not late
    if not late:
      return step
    return Step(step.observation, step.admissible, step.reward, truncated=True)
