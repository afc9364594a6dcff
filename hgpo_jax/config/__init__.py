"""The config of an experiment: typed, frozen, and one place for its fields.

`sections.py` holds the fields and `fields.py` what a field is. Config files
edit a draft (experiments/configs/base.py), from which the frozen `Config` is
made once. What cannot work is refused by hgpo_jax/train/config_checks.py.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hgpo_jax.config.fields import (
  About,
  Mark,
  field,
  filled,
  leaves,
  options_of,
  problems,
  type_name,
  unknown,
)
from hgpo_jax.config.sections import (
  PPO,
  Algo,
  Config,
  Env,
  Lora,
  Loss,
  Optim,
  Policy,
)
from hgpo_jax.types import ConfigError

__all__ = [
  'PPO',
  'Algo',
  'Config',
  'Env',
  'Lora',
  'Loss',
  'Optim',
  'Policy',
  'default',
  'describe',
  'differences',
  'filled',
  'fixed_on_resume',
  'leaves',
  'options_of',
  'problems',
  'same_budget',
  'same_processes',
  'same_run',
  'unknown',
  'warm_start_fields',
]


def default(worlds: Mapping[str, Callable[..., Any]]) -> Config:
  """A config of nothing but defaults.

  Args:
    worlds: name -> what makes a world, whose arguments are its options.

  Raises: ConfigError where an argument has a default that may change.
  """
  options = {
    name: _world_options(name, make)() for name, make in worlds.items()
  }
  return Config(env=Env(options=types.MappingProxyType(options)))


def _world_options(name: str, make: Callable[..., Any]) -> type:
  marks: tuple[Mark, ...] = ('warm_start', 'budget')
  needed = {
    p.name: field(None, 'has no default', marks=marks)
    for p in inspect.signature(make).parameters.values()
    if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
  }
  try:
    return options_of(make, re.sub(r'\W', '_', name), marks, **needed)
  except ValueError as error:
    raise ConfigError(f'options of the world {name!r}: {error}') from error


# ---- what follows from kinds ----


def fixed_on_resume(about: About) -> bool:
  """Whether a resumed run needs the field's saved value."""
  return about.kind == 'identity' and 'grows' not in about.marks


def same_run(about: About) -> bool:
  """Whether a run of another value is another run."""
  return about.kind == 'identity'


def same_budget(about: About) -> bool:
  """Whether runs of other values are not to be compared."""
  return 'budget' in about.marks


def same_processes(about: About) -> bool:
  """Whether all processes of a run need one value."""
  return 'per_process' not in about.marks


def differences(
  saved: Mapping[str, Any],
  given: Mapping[str, Any],
  matters: Callable[[About], bool],
  like: Config,
) -> list[str]:
  """Lists the fields in which two configs differ, as 'a.b: saved -> given'.

  Args:
    saved: nested mappings of plain values, JSON's lists among them.
    given: the same of the other config.
    matters: which fields count, such as `same_run`.
    like: a config that knows the fields; others count always.
  """
  about = {leaf.name: leaf.about for leaf in leaves(like)}
  old, new = dict(_flat(saved)), dict(_flat(given))
  return [
    f'{name}: {old.get(name, "absent")!r} -> {new.get(name, "absent")!r}'
    for name in sorted(old.keys() | new.keys())
    if old.get(name, _ABSENT) != new.get(name, _ABSENT)
    and (name not in about or matters(about[name]))
  ]


_ABSENT = object()


def _flat(
  tree: Mapping[str, Any], prefix: str = ''
) -> Iterator[tuple[str, Any]]:
  for name, value in tree.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f'{prefix}{name}.')
    else:
      plain = list(value) if isinstance(value, tuple) else value
      yield prefix + name, plain


def warm_start_fields(
  config: Config, *, identity: bool = False
) -> dict[str, Any]:
  """Name -> value of the fields that a warm start depends on.

  Of the worlds' options they are those of the world that is played.

  Args:
    config: the experiment.
    identity: without those that a resumed run may change.
  """
  env = config.env
  own = {n: options for n, options in env.options.items() if n == env.world}
  played = dataclasses.replace(env, options=own)
  return {
    leaf.name: leaf.value
    for leaf in leaves(dataclasses.replace(config, env=played))
    if 'warm_start' in leaf.about.marks
    and (not identity or leaf.about.kind == 'identity')
  }


def describe(config: Config) -> str:
  """A line for each field: value, unit, kind, type and meaning.

  A field whose value is not its default is marked by a star.
  """
  lines = []
  for leaf in leaves(config):
    star = '*' if leaf.value != leaf.default else ' '
    value = f'{leaf.name} = {leaf.value!r} {leaf.about.unit}'.rstrip()
    doc = f'{leaf.about.doc} [{type_name(leaf.hint)}]'.lstrip()
    lines.append(f'{star} {value:<46} {leaf.about.kind:<8} {doc}')
  return '\n'.join(lines)
