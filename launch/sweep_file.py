"""Sweep files: axes whose product is a set of runs.

They are TOML rather than Python: a sweep is data, which can be checked before
anything runs, compared between commits, and cannot compute its own answer.

  runs = 'runs/methods'                        # folder of the runs' folders
  config = 'experiments/configs/alfworld_tiny.py'

  [set]                                        # in every run
  iterations = 60

  [axes]
  method = ['grpo', 'hgpo']                    # algo.estimator
  seed = [0, 1]

An axis' plain values go to its field below, or into `config`, where that names
the axis: `paper.py:{method}-{world}-{size}-k{k}`. Instead of a list, an axis is
also a table of values, each with what it sets, and a `config` of its own. So
every field of a config can be varied:

  [axes.method]
  slow = { optim.learning_rate = 1e-4 }
  fast = { optim.learning_rate = 1e-3 }

  [axes.world]
  alfworld = { config = 'experiments/configs/alfworld_tiny.py' }
  webshop = { config = 'experiments/configs/webshop_tiny.py', iterations = 40 }

`hosts`, `env_servers` (per host) and `env` are as in `launch.job.Job`; a table
`[slurm]`, `[gke]` or `[tpu_pod]` holds the options of that back end.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import re
import string
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.configs import base
from hgpo_jax.config import Config, leaves
from launch.job import Job, LaunchError

_ORDER = ('method', 'world', 'size', 'k', 'seed')  # in a run's name
_FIELDS = {leaf.about.axis: leaf.name for leaf in leaves(Config())}
# Axis -> field that its plain values go to.
AXES = {axis: _FIELDS[axis] for axis in _ORDER}
_NUMBERED = ('k', 'seed')  # whose values say nothing without the axis' name
BACKENDS = ('slurm', 'gke', 'tpu_pod')
_TEXTS, _COUNTS = ('runs', 'config'), ('hosts', 'env_servers')
_TABLES = ('axes', 'set', 'env', *BACKENDS)


@dataclasses.dataclass(frozen=True)
class Sweep:
  """A sweep file's content.

  Attributes:
    name: the file's, without its ending.
    jobs: in the order of the axes, the last one fastest.
    options: back end -> its options.
  """

  name: str
  jobs: Sequence[Job]
  options: Mapping[str, Mapping[str, Any]]


class _Value(NamedTuple):
  """One value of an axis: its part of the run's name, and what it sets."""

  name: str
  text: str  # in the config's name
  overrides: Mapping[str, Any]


def read(path: str | pathlib.Path) -> Sweep:
  """Reads a sweep file.

  Raises: LaunchError that says what is wrong with it. Whether fields exist is
    for `launch.sweep`, which knows the configs.
  """
  try:
    table = tomllib.loads(pathlib.Path(path).read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise LaunchError(f'{path}: {error}') from error
  try:
    return _sweep(pathlib.Path(path).stem, table)
  except LaunchError as error:
    raise LaunchError(f'{path}: {error}') from error


def _sweep(name: str, table: Mapping[str, Any]) -> Sweep:
  _known('key', table, (*_TEXTS, *_COUNTS, *_TABLES))
  for keys, kind, what in ((_TEXTS, str, 'text'), (_TABLES, dict, 'table')):
    for key in keys:
      if key in table and not isinstance(table[key], kind):
        raise LaunchError(f'{key} is {table[key]!r}; expected a {what}.')
  for key in ('runs', 'axes'):
    if not table.get(key):
      raise LaunchError(f'no {key}; expected one in every sweep.')
  axes = table['axes']
  try:
    _known('axis', axes, AXES)
  except LaunchError as error:
    raise LaunchError(
      f'{error} To vary a field of the config, name values of an axis and what '
      'they set: `[axes.method]`, and below it `a = { optim.learning_rate = '
      '1e-3 }`.'
    ) from None
  parts = [list(_values(axis, axes[axis])) for axis in AXES if axis in axes]
  jobs = [
    _job(table, dict(zip([a for a in AXES if a in axes], values, strict=True)))
    for values in itertools.product(*parts)
  ]
  names = [job.name for job in jobs]
  if twice := {name for name in names if names.count(name) > 1}:
    raise LaunchError(
      f'several runs are called {min(twice)!r}, and would share a folder; '
      'expected values with names of their own.'
    )
  options = {name: table[name] for name in BACKENDS if name in table}
  return Sweep(name, jobs, options)


def _values(axis: str, values: Any) -> Iterator[_Value]:
  if not isinstance(values, (list, dict)) or not values:
    raise LaunchError(
      f'axes.{axis} is {values!r}; expected a list of values, or a table of '
      'values with what they set.'
    )
  for value in values:
    text = str(value)
    if not re.fullmatch(r'[\w.+-]+', text):
      raise LaunchError(
        f'axes.{axis} has {text!r}; expected letters, digits and any of ._+-, '
        'as it names a folder.'
      )
    name = f'{axis}{text}' if axis in _NUMBERED else text
    if isinstance(values, list):
      yield _Value(name, text, {AXES[axis]: value})
    elif isinstance(values[value], dict):
      yield _Value(name, text, _flat(values[value]))
    else:
      raise LaunchError(
        f'axes.{axis}.{text} is {values[value]!r}; expected a table of what it '
        'sets.'
      )


def _job(table: Mapping[str, Any], values: Mapping[str, _Value]) -> Job:
  """Puts together what the values of one run set; later axes win."""
  overrides: dict[str, Any] = {**_flat(table.get('set', {}))}
  name = '-'.join(value.name for value in values.values())
  config = table.get('config', '')
  for value in values.values():
    config = value.overrides.get('config', config)
  if not config or not isinstance(config, str):
    raise LaunchError(
      f'{name} has no config; expected one for all, or its own.'
    )
  config, named = _filled(config, values)
  for axis, value in values.items():
    if not (axis in named and value.overrides.keys() == {AXES[axis]}):
      overrides |= value.overrides
  overrides.pop('config', None)
  if base.RUN_DIR in overrides:
    raise LaunchError(
      f'{name} sets {base.RUN_DIR}, which is <runs>/<name> here.'
    )
  return Job(
    name=name,
    config=config,
    run_dir=str(pathlib.Path(table['runs']) / name),
    overrides=overrides,
    hosts=table.get('hosts', 1),
    env_servers=table.get('env_servers', 0),
    env=table.get('env', {}),
  )


def _filled(config: str, values: Mapping[str, _Value]) -> tuple[str, set[str]]:
  """Puts values into the config's name; returns it, and the axes it names."""
  texts = {axis: value.text for axis, value in values.items()}
  try:
    parsed = string.Formatter().parse(config)
    named = {field for _, field, _, _ in parsed if field is not None}
    _known('axis in the config', named, values)
    return config.format(**texts), named
  except ValueError as error:
    raise LaunchError(
      f'config is {config!r} ({error}); expected axes in braces, such as '
      '{method}.'
    ) from error


def _flat(table: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Dotted fields of nested tables; TOML's arrays are the configs' tuples."""
  fields: dict[str, Any] = {}
  for name, value in table.items():
    if isinstance(value, dict):
      fields |= _flat(value, f'{prefix}{name}.')
    else:
      fields[f'{prefix}{name}'] = (
        tuple(value) if isinstance(value, list) else value
      )
  return fields


def _known(what: str, names: Any, known: Any) -> None:
  if unknown := sorted(set(names) - set(known)):
    raise LaunchError(
      f'no {what} is called {unknown[0]!r}; expected {", ".join(known)}.'
    )
