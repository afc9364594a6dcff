"""Finished runs of the paper's cells, read from their folders."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.configs import base, paper
from hgpo_jax import config as config_lib
from hgpo_jax.types import ConfigError


class Run(NamedTuple):
  """One finished run.

  Attributes:
    folder: where it lies.
    cell: what it ran.
    seed: of training.
    final: its summary's last evaluation: split -> temperature -> result.
    changes: fields in which it differs from its cell, for people.
  """

  folder: pathlib.Path
  cell: paper.Cell
  seed: int
  final: Mapping[str, Mapping[str, Any]]
  changes: tuple[str, ...]


def gather(folder: pathlib.Path) -> list[Run]:
  """Reads the finished runs of cells below a folder.

  Raises: ConfigError where there is no such folder, a run is of a cell that
    does not exist, or two runs are of one cell and seed.
  """
  if not folder.is_dir():
    raise ConfigError(
      f'{folder} does not exist; expected a folder that holds runs.'
    )
  found: dict[tuple[str, int], Run] = {}
  for path in sorted(folder.rglob('summary.json')):
    run = _read(path.parent)
    if run is None:
      continue
    key = (run.cell.name, run.seed)
    if key in found:
      raise ConfigError(
        f'{found[key].folder} and {run.folder} both ran {key[0]} with seed '
        f'{key[1]}; expected one. Move the other out of {folder}.'
      )
    found[key] = run
  return list(found.values())


def _read(folder: pathlib.Path) -> Run | None:
  """Returns the run in a folder, None where it is of no cell."""
  if not (folder / 'config.json').exists():
    return None
  config = json.loads((folder / 'config.json').read_text())
  summary = json.loads((folder / 'summary.json').read_text())
  name = config.get('cell')
  if not name or 'final' not in summary:
    return None
  if name not in paper.CELLS:
    raise ConfigError(
      f'{folder} ran {name!r}, which is no cell of experiments/configs/'
      'paper.py. Move it away.'
    )
  meant = {**paper.get_config(name).to_dict(), 'seed': config['seed']}
  changes = config_lib.differences(
    meant, config, config_lib.same_run, base.DEFAULT
  )
  return Run(
    folder,
    paper.find(name),
    config['seed'],
    summary['final'],
    tuple(changes),
  )
