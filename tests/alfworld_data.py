"""Where the ALFWorld tests find games: released ones, and the real engine."""

from __future__ import annotations

import importlib.util
import os
import tarfile
from pathlib import Path

import pytest

_ARCHIVE = 'alfworld/json_2.1.1_train_valid_seen.tar.xz'


def need_package(*names: str) -> None:
  """Skips where one of the packages is not installed."""
  for name in names:
    if importlib.util.find_spec(name) is None:
      pytest.skip(f'{name} is not installed: pip install alfworld')


def archive() -> Path:
  """The released games, or skips: below $HGPO_TEST_DATA, else a known place."""
  beside = Path(__file__).resolve().parents[2] / 'shared' / 'data'
  path = Path(os.environ.get('HGPO_TEST_DATA') or beside, _ARCHIVE)
  if not path.is_file():
    pytest.skip(f'{path} is not there; HGPO_TEST_DATA names its folder')
  return path


def unpack_released(folder: Path, every: int = 1) -> Path:
  """Unpacks every so-many-th released game of each split, in name order.

  Args:
    folder: becomes the root, which holds `json_2.1.1/{train,valid_seen}`.
    every: 1 unpacks all 3,693 games (300 MB).
  """
  with tarfile.open(archive()) as tar:
    files = [member for member in tar.getmembers() if member.isfile()]
    trials = sorted({file.name.rpartition('/')[0] for file in files})
    kept = set(trials[::every])
    wanted = [file for file in files if file.name.rpartition('/')[0] in kept]
    tar.extractall(folder / 'json_2.1.1', wanted, filter='data')
  return folder
