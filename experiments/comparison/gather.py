"""Finished runs of a comparison, read from their folders."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Collection

from experiments.comparison.planned import CompareError
from experiments.folders import RunFolder
from hgpo_jax import config as config_lib

Runs = dict[str, dict[int, RunFolder]]  # method -> seed -> run


def read(folder: pathlib.Path, methods: Collection[str]) -> Runs:
  """Finds the finished runs of some methods, in order.

  Raises: CompareError where two of them have different budgets.
  """
  places = []
  for path in folder.glob('*_seed*/summary.json'):
    name = re.fullmatch(r'(.+)_seed(\d+)', path.parent.name)
    if name and name[1] in methods:
      places.append((name[1], int(name[2]), path.parent))
  found: Runs = {}
  for method, seed, path in sorted(places):
    found.setdefault(method, {})[seed] = RunFolder(path)
  runs = [run for seeds in found.values() for run in seeds.values()]
  for run in runs[1:]:
    _check_budget(runs[0], run)
  return found


def _check_budget(one: RunFolder, other: RunFolder) -> None:
  differences = config_lib.differences(
    one.config.to_dict(),
    other.config.to_dict(),
    config_lib.same_budget,
    one.config,
  )
  if differences:
    raise CompareError(
      f'{one.path} and {other.path} have different budgets: '
      f'{"; ".join(differences)}. Expected equal ones: move one of these '
      'folders away.'
    )
