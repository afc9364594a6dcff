"""The start of a command that takes a config: what is mistyped, in a line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags

from experiments.configs import base
from hgpo_jax import config as config_lib


def run(main: Callable[[Sequence[str]], Any]) -> None:
  """As `app.run`, for a `main` with a config file among its flags."""
  app.run(main, flags_parser=_parsed)


def _parsed(argv: Sequence[str]) -> list[str]:
  """Parses flags; exits where a config has no such file, variant or field."""
  try:
    rest = app.parse_flags_with_usage(list(argv))
    if flags.FLAGS['config'].value is not None:
      vars(flags.FLAGS['config'].value)  # a file that is not there says so now
    return rest
  except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
    if wrong := _mistyped(argv):
      sys.exit(f'Wrong --config: {"; ".join(wrong)}')
    cause: Any = error
    while isinstance(cause, BaseException) and cause.args:
      cause = cause.args[0]
    # The last line holds the hint; above it, config_dict may list all it has.
    sys.exit(f'Wrong --config: {str(cause).strip().splitlines()[-1]}')


def _mistyped(argv: Sequence[str]) -> list[str]:
  """What is said of flags for fields that no config has."""
  known = [leaf.name for leaf in config_lib.leaves(base.DEFAULT)]
  named = [arg.lstrip('-').partition('=')[0] for arg in argv]
  fields = [n.removeprefix('config.') for n in named if n.startswith('config.')]
  return [config_lib.unknown(n, known) for n in fields if n not in known]
