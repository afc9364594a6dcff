"""Worlds by name."""

from __future__ import annotations

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


def make_world(name: str, config: Mapping[str, Any]) -> World:
  """Builds the world `name` with the options in `config`.

  Raises:
    UnknownWorld: there is no such world.
    BadOptions: it has no such option, or not with such a value.
  """
  if name not in WORLDS:
    raise UnknownWorld(
      f'no world is called {name!r}; there are {sorted(WORLDS)}.'
    )
  make = WORLDS[name]
  signature = inspect.signature(make)
  try:
    signature.bind(**config)
  except TypeError as error:
    raise BadOptions(
      f'world {name!r}: {error}; its options are {list(signature.parameters)}.'
    ) from None
  try:
    return make(**config)
  except (TypeError, ValueError) as error:
    raise BadOptions(
      f'world {name!r} with {dict(config)!r}: {error}'
    ) from error
