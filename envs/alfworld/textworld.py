"""ALFWorld's game in the alfworld package's own engine: slow, the reference."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from envs.alfworld.game import Game
from envs.base import EnvError, ResetNeeded, Step


class TextworldEngine:
  """The interface of `engine.Engine` over TextWorld and Fast Downward.

  Every instance holds a copy of Fast Downward's library, which cannot be
  unloaded safely: play other games with `load`, not with other instances.
  """

  def __init__(self, game: Game):
    """Reads the game; needs the `alfworld` package with its dependencies.

    Raises:
      EnvError: the package is not installed; the text says how to.
    """
    textworld, wrappers = import_package()
    infos = textworld.EnvInfos(won=True, admissible_commands=True)
    env = textworld.envs.PddlEnv(infos)
    self._env: Any = wrappers.AlfredInfos(wrappers.AlfredDemangler(env))
    self.load(game)

  def load(self, game: Game) -> None:
    """Reads another game; `reset` starts it."""
    self._running = False
    with _argv_kept():
      self._env.load(
        {
          'pddl_domain': game.domain,
          'grammar': game.grammar,
          'pddl_problem': game.problem,
          'walkthrough': list(game.walkthrough),
        }
      )
    self.game = game

  def reset(self) -> Step:
    """Starts an episode; the observation holds the room and the task."""
    with _argv_kept():
      step = _step(self._env.reset(), 0.0, False)
    self._running = True
    return step

  def step(self, command: str) -> Step:
    """Plays a command; one that is not admissible changes nothing.

    Raises:
      ResetNeeded: before `reset`, and after the episode has ended.
    """
    if not self._running:
      raise ResetNeeded('step() without a running episode: call reset() first.')
    state, reward, done = self._env.step(command)
    self._running = not done
    return _step(state, reward, done)


def _step(state: Any, reward: float, done: bool) -> Step:
  return Step(
    state.feedback,
    tuple(state['admissible_commands']),
    reward=float(reward),
    terminated=bool(done),
    won=bool(state['won']),
  )


def import_package() -> tuple[ModuleType, ModuleType]:
  """Returns `textworld` and alfworld's module of wrappers for it.

  Raises:
    EnvError: one of them is not installed; the text says how to.
  """
  try:
    with _data_folder_kept():
      import textworld
      import textworld.envs
      from alfworld.agents.environment import alfred_tw_env
      from textworld.envs.pddl import textgen
  except ImportError as error:
    raise EnvError(
      f'engine=textworld needs the alfworld package ({error}). Install it '
      'with `pip install alfworld` (cmake and g++ must be there, since some '
      'of its dependencies are compiled), or use engine=fast.'
    ) from error
  if sys.version_info >= (3, 13):
    _give_expressions_their_variables(textgen)
  return textworld, alfred_tw_env


def _give_expressions_their_variables(textgen: ModuleType) -> None:
  """Mends how TextWorld 1.7.0 evaluates a grammar's expressions.

  It writes their variables into `locals()` of the method that evaluates them.
  Since Python 3.13 (PEP 667) that is a copy, and a name such as `r` is unknown.
  """

  def derive(self: Any, context: Any = None) -> list[Any]:
    variables = (context or self.context)['variables']
    value = eval(self.expression, vars(textgen), dict(variables))
    return [textgen.TerminalSymbol(value)]

  textgen.EvalSymbol.derive = derive


@contextlib.contextmanager
def _data_folder_kept() -> Iterator[None]:
  """Keeps the import of alfworld from making and setting its data folder.

  It makes ~/.cache/alfworld and sets ALFWORLD_DATA to it where that is unset;
  games would then be looked for in a folder that nobody has named.
  """
  before = os.environ.get('ALFWORLD_DATA')
  if not before:
    os.environ['ALFWORLD_DATA'] = tempfile.gettempdir()  # is there already
  try:
    yield
  finally:
    if before is None:
      os.environ.pop('ALFWORLD_DATA', None)
    else:
      os.environ['ALFWORLD_DATA'] = before


@contextlib.contextmanager
def _argv_kept() -> Iterator[None]:
  """Undoes what Fast Downward's translator does to the program's arguments."""
  before = sys.argv
  try:
    yield
  finally:
    sys.argv = before
