"""The draft that config files edit, and the frozen config that it becomes.

An experiment is `base.get_config()` with some fields changed, by a config file
and by flags; `freeze` makes the `Config` of it that all else reads. Fields,
their units and defaults are in hgpo_jax/config/sections.py, options of
estimators, surrogates and worlds at their functions and classes. A mistyped
name fails at start-up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from envs import registry
from hgpo_jax import config as config_lib
from hgpo_jax.config import Config

DEFAULT = config_lib.default(registry.WORLDS)


def get_config() -> ml_collections.ConfigDict:
  """A draft of defaults: the paper's ALFWorld settings (sec. 5)."""
  return ml_collections.ConfigDict(DEFAULT.to_dict()).lock()


def freeze(draft: ml_collections.ConfigDict | Mapping[str, Any]) -> Config:
  """Makes the config of a draft, or of what a `config.json` holds.

  Raises: ConfigError that lists names and types that are wrong.
  """
  tree = draft.to_dict() if hasattr(draft, 'to_dict') else dict(draft)
  return config_lib.filled(_like(tree), tree)


def _like(tree: Mapping[str, Any]) -> Config:
  """`DEFAULT`, with the options of a world of one's own ('module:Class')."""
  env = tree.get('env', {})
  own = {name for name in (str(env.get('world', '')), *env) if ':' in name}
  if not own:
    return DEFAULT
  worlds = dict(registry.WORLDS)
  for name in own:
    try:
      worlds[name] = registry.find(name)
    except registry.UnknownWorld:
      if name in env:
        raise
  return config_lib.default(worlds)


class _Path:
  """Notes which attributes are asked of a config."""

  def __init__(self) -> None:
    self._fields: list[str] = []

  def __getattr__(self, field: str) -> _Path:
    self._fields.append(field)
    return self


def name(of: Callable[[Config], Any]) -> str:
  """The dotted name of a field, as flags and overrides have it.

  `name(lambda c: c.eval.games)` is 'eval.games', which type checkers and a
  search for the field follow, as they do not follow a text.
  """
  path: Any = _Path()
  of(path)
  return '.'.join(path._fields)


CELL = name(lambda c: c.cell)
RUN_DIR = name(lambda c: c.run_dir)
SEED = name(lambda c: c.seed)
