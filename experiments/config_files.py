"""Config files, imported by their path as config_flags does."""

from __future__ import annotations

import importlib.util
import pathlib
from typing import Any


def load(path: str) -> Any:
  """Imports a config file; returns None where there is no such Python file."""
  spec = importlib.util.spec_from_file_location('config_file', path)
  if spec is None or spec.loader is None or not pathlib.Path(path).exists():
    return None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
