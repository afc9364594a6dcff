"""What a world is, in a few hashes: whether two programs play the same."""

from __future__ import annotations

import hashlib
import inspect
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from envs import registry
from envs.base import EnvError, Task
from envs.serving.protocol import Identity
from envs.world import World

_SPLITS = ('train', 'valid', 'valid_seen', 'valid_unseen', 'test')


def identify(
  name: str, options: Mapping[str, Any], world: World | None = None
) -> Identity:
  """Returns the identity of a world with all its options, defaults included.

  Args:
    name: in the registry.
    options: as JSON values.
    world: made with them; without it, the identity has no hash of data.
  """
  return Identity(
    name,
    json.dumps(registry.arguments(name, options), sort_keys=True),
    _code_version(name),
    data_hash(world) if world else '',
  )


def _code_version(world: str) -> str:
  """Hash of the sources of `envs`, and of the world's own where it is apart.

  Worlds are deterministic only given their code: an episode that is continued
  elsewhere needs the same.
  """
  folder = pathlib.Path(__file__).resolve().parents[1]
  paths = {str(p.relative_to(folder)): p for p in folder.rglob('*.py')}
  source = inspect.getsourcefile(inspect.unwrap(registry.find(world)))
  if source and not pathlib.Path(source).resolve().is_relative_to(folder):
    paths['world'] = pathlib.Path(source)
  return _digest([(name, paths[name].read_bytes()) for name in sorted(paths)])


def data_hash(world: World) -> str:
  """Hash of how the first, middle and last task of each split start.

  A sample, not a proof; what differs elsewhere is noticed when an episode is
  rebuilt. It also loads what the world loads before it first plays.

  Raises: EnvError where no split can be played.
  """
  env, samples, errors = world.make_env(), [], []
  for split in _SPLITS:
    try:
      size = world.num_tasks(split)
      indices = (0, 1, 2) if size is None else (0, size // 2, size - 1)
      samples += [
        repr(size),
        *(repr(env.reset(Task(split, i))) for i in indices),
      ]
    except EnvError as error:  # most worlds lack some of these splits
      samples.append(type(error).__name__)
      errors.append(error)
  if len(errors) == len(_SPLITS):
    raise errors[0]
  return _digest(samples)


def _digest(value: Any) -> str:
  return hashlib.sha256(repr(value).encode('utf-8', 'replace')).hexdigest()[:16]
