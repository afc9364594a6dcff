"""The models that there are: the only place outside their files with names."""

from __future__ import annotations

import re
from typing import Any

from hgpo_jax import types
from hgpo_jax.model import qwen2, qwen3
from hgpo_jax.model.interface import Architecture, Model

ARCHITECTURES: dict[str, Architecture] = {
  module.ARCHITECTURE.name: module.ARCHITECTURE for module in (qwen2, qwen3)
}


def presets() -> dict[str, Model]:
  """Every named size of every architecture."""
  return {
    name: Model(architecture, config)
    for architecture in ARCHITECTURES.values()
    for name, config in architecture.presets.items()
  }


def preset(name: str, **fields: Any) -> Model:  # of `Config`
  """The model of this name, with other fields of its config.

  Raises: ConfigError that lists the names.
  """
  known = presets()
  types.one_of('policy.preset', name, known)
  return known[name].replace(**fields)


def released(checkpoint: str) -> str:
  """The preset that the id of a released checkpoint names.

  Args:
    checkpoint: such as 'owner/Qwen3-8B'.

  Raises: ConfigError that lists the names.
  """
  for architecture in ARCHITECTURES.values():
    for name in architecture.presets:
      stem = re.escape(architecture.hub_prefix + name)
      if re.search(rf'{stem}(?![\d.])', checkpoint.lower()):
        return name
  raise types.ConfigError(
    f'policy.checkpoint is {checkpoint!r}, which is no local folder, and names '
    f'none of the sizes that are known: {[*presets()]}. Download it to plan '
    'with it.'
  )
