"""How commands start and end: what they refuse is a line, not a traceback."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags

from experiments.configs import base
from hgpo_jax import config as config_lib
from hgpo_jax.types import ConfigError


def run(main: Callable[[], Any], *refusals: type[Exception]) -> None:
  """Runs a command that takes flags alone.

  Args:
    main: the command.
    *refusals: errors that a user can cure; OSError is always one.
  """
  expected: tuple[type[Exception], ...] = (*refusals, OSError)

  def checked(argv: Sequence[str]) -> None:
    if len(argv) > 1:
      raise app.UsageError(f'unknown arguments {argv[1:]}')
    try:
      main()
    except expected as error:
      # ml_collections lists the places where it looked for a missing file.
      text = _last_line(error) if type(error) is OSError else error
      sys.exit(f'{type(error).__name__}: {text}')

  app.run(checked, flags_parser=_parsed)


def _parsed(argv: Sequence[str]) -> list[str]:
  """Parses flags; exits where one, or a field of a config, is wrong."""
  try:
    return flags.FLAGS(list(argv))
  except (flags.Error, *_OF_CONFIGS) as error:
    if wrong := _mistyped(argv):
      sys.exit(f'Wrong --config: {"; ".join(wrong)}')
    cause: Any = error
    while isinstance(cause, BaseException) and cause.args:
      cause = cause.args[0]
    sys.exit(f'Wrong flags: {_last_line(cause)}')


# What config files, and overrides of their fields, may raise.
_OF_CONFIGS = (AttributeError, KeyError, OSError, TypeError, ValueError)


def _last_line(text: object) -> str:
  """The hint of a long error, such as a list of all fields or a traceback."""
  return str(text).strip().splitlines()[-1].strip()


def _mistyped(argv: Sequence[str]) -> list[str]:
  """A line for each flag of a field that no config has."""
  known = [leaf.name for leaf in config_lib.leaves(base.DEFAULT)]
  named = [arg.lstrip('-').partition('=')[0] for arg in argv]
  fields = [n.removeprefix('config.') for n in named if n.startswith('config.')]
  return [config_lib.unknown(n, known) for n in fields if n not in known]


def load(path: str) -> Any:
  """Imports a config file by its path, as the flag --config does.

  Raises: ConfigError where there is no such Python file.
  """
  spec = importlib.util.spec_from_file_location('config_file', path)
  if spec is None or spec.loader is None or not pathlib.Path(path).exists():
    raise ConfigError(
      f'{path} is no Python file; expected a config, such as '
      'experiments/configs/alfworld_tiny.py.'
    )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
