"""ALFWorld's game in the alfworld package's own engine: slow, the reference."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from envs.alfworld.game import Game
from envs.base import EnvError, ResetNeeded, Step


class TextworldEngine:
  """The interface of `engine.Engine` over TextWorld and Fast Downward."""

  def __init__(self, game: Game):
    """Reads the game; needs the `alfworld` package with its dependencies.

    Raises:
      EnvError: the package is not installed; the text says how to.
    """
    self.game = game
    textworld, wrappers = _import()
    infos = textworld.EnvInfos(won=True, admissible_commands=True)
    env = textworld.envs.PddlEnv(infos)
    self._env: Any = wrappers.AlfredInfos(wrappers.AlfredDemangler(env))
    self._env.load(
      {
        'pddl_domain': game.domain,
        'grammar': game.grammar,
        'pddl_problem': game.problem,
        'walkthrough': list(game.walkthrough),
      }
    )
    self._running = False

  def reset(self) -> Step:
    """Starts an episode; the observation holds the room and the task."""
    self._running = True
    return _step(self._env.reset(), 0.0, False)

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


def _import() -> tuple[ModuleType, ModuleType]:
  try:
    import textworld
    import textworld.envs
    from alfworld.agents.environment import alfred_tw_env
  except ImportError as error:
    raise EnvError(
      f'engine=textworld needs the alfworld package ({error}). Install it '
      'with `pip install alfworld` (cmake and g++ must be there, since some '
      'of its dependencies are compiled), or use engine=fast.'
    ) from error
  return textworld, alfred_tw_env
