"""Cells of the lab, computed by several processes and kept in files.

A cell is all cases of one player: its skill and the depth of its window. A
finished cell is a file, so a lab that was stopped continues with the next one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from experiments.lab.cases import Case, Settings, compute
from hgpo_jax.train import metrics

# The fields of `cases.study`, each with all cases along its first axis.
Cases = dict[str, np.ndarray]
Player = tuple[float, int]  # skill, depth


class LabError(Exception):
  """Results that cannot be continued; the text says the cure."""


def cells(
  settings: Settings,
  players: Sequence[Player],
  folder: pathlib.Path,
  *,
  workers: int,
  show: Callable[[str], None],
) -> Iterator[tuple[Player, Cases]]:
  """Yields the cells in order; reads those that are there, writes the others.

  The workers compute later cells while the caller looks at one.

  Args:
    settings: of all cells.
    players: (skill, depth) of each cell.
    folder: where cells are kept.
    workers: processes; 1 computes in this one.
    show: prints the progress.
  """
  folder.mkdir(parents=True, exist_ok=True)
  claim(settings, folder)
  todo = missing(folder, players)
  cases = (
    Case(settings, skill, depth, index)
    for skill, depth in todo
    for index in range(settings.steps)
  )
  with computed(cases, workers) as records:
    for player in players:
      path = _path(folder, player)
      if player in todo:
        show(f'cell skill={player[0]} K={player[1]}')
        _write(path, _gather(records, settings.steps, show))
      yield player, _read(path)


def missing(folder: pathlib.Path, players: Sequence[Player]) -> list[Player]:
  """The cells that are yet to be played."""
  return [x for x in players if not _path(folder, x).exists()]


def claim(settings: Settings, folder: pathlib.Path) -> None:
  """Marks a folder as that of these settings.

  Raises:
    LabError: it holds cells of other settings.
  """
  path = folder / 'settings.json'
  expected = json.loads(json.dumps(dataclasses.asdict(settings)))
  if not path.exists():
    metrics.write_json(path, expected)
    return
  saved = json.loads(path.read_text())
  differing = [
    f'{x}={saved.get(x)!r} (now {expected.get(x)!r})'
    for x in sorted(saved.keys() | expected.keys())
    if saved.get(x) != expected.get(x)
  ]
  if differing:
    raise LabError(
      f'{folder} holds cells computed with {", ".join(differing)}: give those '
      'flags again to continue there, or another --out to begin anew.'
    )


@contextlib.contextmanager
def computed(
  cases: Iterator[Case], workers: int
) -> Iterator[Iterator[dict[str, Any]]]:
  """The cases' records, in order, by this process or by others."""
  if workers == 1:
    yield map(compute, cases)
    return
  # Not forked: JAX has threads.
  context = multiprocessing.get_context('spawn')
  with futures.ProcessPoolExecutor(workers, context) as pool:
    try:
      yield pool.map(compute, cases)
    finally:
      pool.shutdown(wait=False, cancel_futures=True)


def _gather(
  records: Iterator[dict[str, Any]], count: int, show: Callable[[str], None]
) -> Cases:
  """Stacks the next `count` records."""
  cases = []
  for record in itertools.islice(records, count):
    cases.append(record)
    if len(cases) % max(1, count // 10) == 0:
      show(f'  {len(cases)} of {count} steps')
  return {name: np.array([x[name] for x in cases]) for name in cases[0]}


def _path(folder: pathlib.Path, player: Player) -> pathlib.Path:
  return folder / f'skill{player[0]:g}_depth{player[1]}.npz'


def _read(path: pathlib.Path) -> Cases:
  with np.load(path) as data:
    return dict(data)


def _write(path: pathlib.Path, cell: Cases) -> None:
  partial = path.with_name(path.name + '.partial')
  with partial.open('wb') as file:
    np.savez_compressed(file, allow_pickle=False, **cell)
  os.replace(partial, path)
