"""Folders of runs that are to be played: finished, begun, or another run's."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.configs import base
from hgpo_jax import config as config_lib


def is_finished(folder: pathlib.Path) -> bool:
  """Whether a run has ended here."""
  return (folder / 'summary.json').exists()


def others(meant: Mapping[pathlib.Path, Mapping[str, Any]]) -> str:
  """Names the folders that hold runs of other settings; '' if none does.

  Args:
    meant: folder -> config of the run that is meant to be there.
  """
  wrong = []
  for folder, config in meant.items():
    saved = folder / 'config.json'
    # A run of another length is another run, although it could be resumed.
    differences = saved.exists() and config_lib.differences(
      json.loads(saved.read_text()), config, config_lib.same_run, base.DEFAULT
    )
    if differences:
      wrong.append(f'\n  {folder} (saved -> given): {"; ".join(differences)}')
  if not wrong:
    return ''
  return 'these folders hold runs of other settings:' + ''.join(wrong)
