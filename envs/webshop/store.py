"""Packed catalogues on disk, built once and memory-mapped by every process.

A folder of the cache is named by a hash of all that its content depends on: the
sources' bytes, the options, and this package's code. So a stale one is never
opened. A manifest holds the hash of each array, so that a damaged one is
noticed and built anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from envs.base import GameError
from envs.webshop.goals import GoalOrder
from envs.webshop.postings import Postings
from envs.webshop.shop import Packed

_MANIFEST = 'manifest.json'


def content_key(sources: Iterable[Path], options: Mapping[str, Any]) -> str:
  """Hashes what a packed catalogue is made from: 32 hexadecimal digits.

  Raises: GameError where a source cannot be read.
  """
  digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
  code = sorted(Path(__file__).parent.glob('*.py'))
  for path in (*code, *sources):
    digest.update(f'{path.name} {_file_hash(path)}'.encode())
  return digest.hexdigest()[:32]


def open_or_build(cache: Path, key: str, build: Callable[[], Packed]) -> Packed:
  """Maps the folder `key` of a cache, after building it where need be.

  Only one process builds; others wait for it. A build that is interrupted
  leaves no folder of that name.

  Raises: GameError where the cache cannot be written.
  """
  folder = cache / key
  try:
    cache.mkdir(parents=True, exist_ok=True)
    if not _is_whole(folder):
      with _locked(cache / f'{key}.lock'):
        if not _is_whole(folder):  # nobody has built it meanwhile
          shutil.rmtree(folder, ignore_errors=True)
          _write(folder, build())
    return _map(folder)
  except OSError as error:
    raise GameError(
      f'{folder}: {error}. The option cache names a folder that can be written '
      'and has room for about twice the catalogue.'
    ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
  with open(path, 'w') as file:
    fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file is closed
    yield


def _write(folder: Path, packed: Packed) -> None:
  """Writes beside the folder first; it gets its name when it is whole."""
  part = Path(tempfile.mkdtemp(prefix='part-', dir=folder.parent))
  try:
    hashes = {}
    for name, array in _arrays(packed).items():
      np.save(part / f'{name}.npy', array)
      hashes[name] = _file_hash(part / f'{name}.npy')
    (part / _MANIFEST).write_text(json.dumps(hashes, indent=1))
    os.replace(part, folder)
  finally:
    shutil.rmtree(part, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
  try:
    hashes = json.loads((folder / _MANIFEST).read_text())
    return set(hashes) == set(_names()) and all(
      _file_hash(folder / f'{name}.npy') == digest
      for name, digest in hashes.items()
    )
  except (GameError, OSError, ValueError, TypeError):
    return False


def _map(folder: Path) -> Packed:
  def load(name: str) -> np.ndarray:
    # A plain array over the same memory; slices of a memmap cost far more.
    return np.asarray(np.load(folder / f'{name}.npy', mmap_mode='r'))

  flat = [load(name) for name in Packed._fields[:-2]]
  goals = GoalOrder(*(load(f'goals.{name}') for name in GoalOrder._fields))
  index = Postings(*(load(f'postings.{name}') for name in Postings._fields))
  return Packed._make([*flat, goals, index])


def _arrays(packed: Packed) -> dict[str, np.ndarray]:
  """File name, without its end, -> array."""
  flat = (*packed[:-2], *packed.goals, *packed.postings)
  return dict(zip(_names(), flat, strict=True))


def _names() -> list[str]:
  return [
    *Packed._fields[:-2],
    *(f'goals.{name}' for name in GoalOrder._fields),
    *(f'postings.{name}' for name in Postings._fields),
  ]


def _file_hash(path: Path) -> str:
  try:
    with open(path, 'rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  except OSError as error:
    raise GameError(f'{path}: {error}; expected a file to read.') from error
