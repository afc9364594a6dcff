"""Folders of runs: what a run wrote, and whether another one may go there."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.configs import base
from hgpo_jax import config as config_lib
from hgpo_jax.config import Config
from hgpo_jax.types import ConfigError


@dataclasses.dataclass(frozen=True)
class RunFolder:
  """What a run wrote; each file is read when it is first asked for.

  Attributes:
    path: the run's folder.
  """

  path: pathlib.Path

  @functools.cached_property
  def fields(self) -> Mapping[str, Any]:
    """The experiment as it was written, perhaps by another version."""
    return json.loads((self.path / 'config.json').read_text())

  @functools.cached_property
  def config(self) -> Config:
    """Every field of the experiment; ConfigError where some are unknown."""
    return base.freeze(self.fields)

  @functools.cached_property
  def summary(self) -> Mapping[str, Any]:
    """What `hgpo_jax.train.loop.train` returned; only a finished run has it."""
    return json.loads((self.path / 'summary.json').read_text())

  @functools.cached_property
  def metrics(self) -> list[dict[str, Any]]:
    """Name -> value of each iteration."""
    return read_lines(self.path / 'metrics.jsonl')

  @property
  def seed(self) -> int:
    """Of training."""
    return self.fields[base.SEED]

  @property
  def cell(self) -> str:
    """Of the paper's tables; '' for other runs."""
    return self.fields.get(base.CELL, '')

  @property
  def episodes(self) -> int:
    """Episodes per iteration."""
    rollout = self.config.rollout
    return rollout.groups * rollout.group_size

  @property
  def success(self) -> np.ndarray:
    """`[T]`, the share of an iteration's episodes that were won."""
    return np.array([line['rollout/success'] for line in self.metrics])

  @property
  def temperature(self) -> str:
    """At which games were evaluated; the first, where there are several."""
    return str(self.config.eval.temperatures[0])

  def outcomes(self, phase: str, split: str) -> np.ndarray:
    """Returns `[G]`, how often each game was won, over the sampler's seeds.

    Args:
      phase: 'warm_start' or 'final'.
      split: of the world's games.
    """
    result = self.summary[phase][split][self.temperature]
    won = np.array([int(x) for x in result['outcomes']], float)
    return won.reshape(len(self.config.eval.seeds), -1).mean(0)


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads a file of JSON objects, one a line."""
  return [json.loads(line) for line in path.read_text().splitlines()]


def is_finished(folder: pathlib.Path) -> bool:
  """Whether a run has ended here."""
  return (folder / 'summary.json').exists()


def unfinished(
  expected: Mapping[pathlib.Path, Mapping[str, Any]], elsewhere: str
) -> list[pathlib.Path]:
  """Lists the folders whose runs are to be played or continued.

  Args:
    expected: folder -> config of the run that belongs there.
    elsewhere: the option that chooses other folders, for the error.

  Raises: ConfigError that names the folders with runs of other settings.
  """
  wrong = []
  for folder, config in expected.items():
    # A run of another length is another run, although it could be resumed.
    differences = (folder / 'config.json').exists() and (
      config_lib.differences(
        RunFolder(folder).fields, config, config_lib.same_run, base.DEFAULT
      )
    )
    if differences:
      wrong.append(f'  {folder} (saved -> given): {"; ".join(differences)}\n')
  if wrong:
    raise ConfigError(
      f'these folders hold runs of other settings:\n{"".join(wrong)}'
      f'Give the saved values, or {elsewhere}, or move the folders away.'
    )
  return [folder for folder in expected if not is_finished(folder)]
