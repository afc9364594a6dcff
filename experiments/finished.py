"""Finished runs of the paper's cells, read from their folders."""

from __future__ import annotations

import pathlib

from experiments.configs import base, paper
from experiments.folders import RunFolder
from hgpo_jax import config as config_lib
from hgpo_jax.types import ConfigError


def gather(folder: pathlib.Path) -> list[RunFolder]:
  """Finds the finished runs of cells below a folder.

  Raises: ConfigError where there is no such folder, a run is of a cell that
    does not exist, or two runs are of one cell and seed.
  """
  if not folder.is_dir():
    raise ConfigError(
      f'{folder} does not exist; expected a folder that holds runs.'
    )
  found: dict[tuple[str, int], RunFolder] = {}
  for path in sorted(folder.rglob('summary.json')):
    run = RunFolder(path.parent)
    if not _is_of_a_cell(run):
      continue
    key = (run.fields['cell'], run.seed)
    if key in found:
      raise ConfigError(
        f'{found[key].path} and {run.path} both ran {key[0]} with seed '
        f'{key[1]}; expected one. Move the other out of {folder}.'
      )
    found[key] = run
  return list(found.values())


def _is_of_a_cell(run: RunFolder) -> bool:
  if not (run.path / 'config.json').exists():
    return False
  name = run.fields.get('cell')
  if not name or 'final' not in run.summary:
    return False
  if name not in paper.CELLS:
    raise ConfigError(
      f'{run.path} ran {name!r}, which is no cell of experiments/configs/'
      'paper.py. Move it away.'
    )
  return True


def changes(run: RunFolder) -> list[str]:
  """Lists the fields in which a run differs from its cell, for people."""
  meant = paper.get_config(run.fields['cell']).to_dict()
  return config_lib.differences(
    {**meant, 'seed': run.fields['seed']},
    run.fields,
    config_lib.same_run,
    base.DEFAULT,
  )
