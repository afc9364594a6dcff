"""Worlds by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from envs.alfworld.env import AlfWorld
from envs.base import EnvError, TextEnv
from envs.toy import GuessWorld
from envs.world import World

WORLDS: dict[str, Callable[..., World]] = {
  'alfworld': AlfWorld,
  'toy': GuessWorld,
}


class UnknownWorld(EnvError):
  """No world is registered under that name, or it lacks that option."""


def make_world(name: str, config: Mapping[str, Any]) -> World:
  """Builds the world `name` with the options in `config`."""
  if name not in WORLDS:
    raise UnknownWorld(
      f'no world is called {name!r}; there are {sorted(WORLDS)}.'
    )
  try:
    return WORLDS[name](**config)
  except TypeError as error:
    raise UnknownWorld(f'world {name!r}, options {config!r}: {error}') from None


def make_env(name: str, config: Mapping[str, Any]) -> TextEnv:
  """Makes one environment of the world `name`."""
  return make_world(name, config).make_env()
