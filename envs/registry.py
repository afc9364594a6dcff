"""Worlds by name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from envs.alfworld.env import AlfWorld
from envs.base import BadOptions, EnvError
from envs.toy import GuessWorld
from envs.webshop.env import WebShop
from envs.world import World

WORLDS: dict[str, Callable[..., World]] = {
  'alfworld': AlfWorld,
  'toy': GuessWorld,
  'webshop': WebShop,
}


class UnknownWorld(EnvError):
  """No world is registered under that name."""


def find(name: str) -> Callable[..., World]:
  """Returns what makes a world: of a name above, or of `module:Class`.

  Raises: UnknownWorld where there is none.
  """
  if name in WORLDS:
    return WORLDS[name]
  module, colon, member = name.partition(':')
  if not colon:
    raise UnknownWorld(
      f'no world is called {name!r}; there are {sorted(WORLDS)}, and '
      "'module:Class' names one of your own."
    )
  try:
    world = getattr(importlib.import_module(module), member)
  except (ImportError, AttributeError, ValueError) as error:
    raise UnknownWorld(
      f'no world {name!r}: {error}. Is its folder on PYTHONPATH?'
    ) from error
  if not callable(world):
    raise UnknownWorld(f'no world {name!r}: {world!r} is no class.')
  return world


def arguments(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns all options of the world `name`: those in `config`, and defaults.

  Raises:
    UnknownWorld: there is no such world.
    BadOptions: it has no such option.
  """
  signature = inspect.signature(find(name))
  try:
    bound = signature.bind(**config)
  except TypeError as error:
    raise BadOptions(
      f'world {name!r}: {error}; its options are {list(signature.parameters)}.'
    ) from None
  bound.apply_defaults()
  return bound.arguments


def make_world(name: str, config: Mapping[str, Any]) -> World:
  """Builds the world `name` with the options in `config`.

  Raises:
    UnknownWorld: there is no such world.
    BadOptions: it has no such option, or not with such a value.
  """
  options = arguments(name, config)
  try:
    return find(name)(**options)
  except (TypeError, ValueError) as error:
    raise BadOptions(
      f'world {name!r} with {dict(config)!r}: {error}'
    ) from error
