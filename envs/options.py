"""Checks of the options of a world, with errors that name the option."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envs.base import BadOptions


def one_of(choices: Sequence[str], **options: Any) -> None:
  """Raises BadOptions for an option that is none of the choices."""
  for name, value in options.items():
    if value not in choices:
      raise BadOptions(f'{name} is {value!r}; expected one of {choices}.')


def at_least(least: int, **options: Any) -> None:
  """Raises BadOptions for an option that is no whole number from `least` on."""
  for name, value in options.items():
    if not isinstance(value, int) or value < least:
      raise BadOptions(f'{name} is {value!r}; expected {least} or more.')
