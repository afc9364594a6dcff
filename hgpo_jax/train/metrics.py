"""Named numbers -> console, metrics.jsonl, TensorBoard.

Names that begin with `time/` are the only ones that may differ between equal
runs.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import SupportsFloat

import tqdm
from tensorboardX import SummaryWriter

# Console label -> metric.
_BAR = {
  'win': 'rollout/success',
  'reward': 'rollout/reward',
  'kl': 'update/kl_ref',
  'ent': 'update/entropy',
  'clip': 'update/clip_fraction',
  'grad': 'update/grad_norm',
  'tok/s': 'time/tokens_per_second',
  'roll_s': 'time/rollout_s',
  'upd_s': 'time/update_s',
}


class Log:
  """Where the numbers of iterations go; this one, nowhere."""

  def write(self, step: int, scalars: Mapping[str, SupportsFloat]) -> None:
    """Writes the numbers of one step."""

  def advance(self, scalars: Mapping[str, SupportsFloat]) -> None:
    """Moves the progress bar one step and shows the main numbers."""

  def close(self) -> None:
    """Closes the files."""


class Metrics(Log):
  """Writes one record per iteration to metrics.jsonl, TensorBoard, console."""

  def __init__(
    self, folder: str | pathlib.Path, *, first: int, last: int, label: str
  ):
    """Opens the files of a run.

    Args:
      folder: the run's folder.
      first: the first step that will be written; the lines of later steps
        that an interrupted run left in metrics.jsonl are deleted, so that no
        step is there twice.
      last: the step after the last (for the progress bar).
      label: the bar's name.
    """
    self._path = pathlib.Path(folder) / 'metrics.jsonl'
    cut_from(self._path, first)
    self._file = self._path.open('a', encoding='utf-8')
    self._board = SummaryWriter(
      str(pathlib.Path(folder) / 'tensorboard'), purge_step=first
    )
    self._bar = tqdm.tqdm(
      total=last, initial=first, desc=label, unit='it', dynamic_ncols=True
    )

  def write(self, step: int, scalars: Mapping[str, SupportsFloat]) -> None:
    """Writes the numbers of one step; non-finite ones are written as null."""
    record = {name: _plain(value) for name, value in scalars.items()}
    self._file.write(json.dumps({'step': step, **record}) + '\n')
    self._file.flush()
    for name, value in record.items():
      if value is not None:
        self._board.add_scalar(name, value, step)

  def advance(self, scalars: Mapping[str, SupportsFloat]) -> None:
    """Moves the progress bar one step and shows the main numbers."""
    self._bar.set_postfix_str(
      ' '.join(
        f'{label} {float(scalars[name]):.3g}'
        for label, name in _BAR.items()
        if name in scalars
      ),
      refresh=False,
    )
    self._bar.update()

  def close(self) -> None:
    """Closes the files and the bar."""
    self._bar.close()
    self._file.close()
    self._board.close()


class PhaseTimer:
  """Wall time by phase.

  Attributes:
    seconds: the sum of each phase.
    last: of each phase's last run.
  """

  def __init__(self) -> None:
    self.seconds: dict[str, float] = {}
    self.last: dict[str, float] = {}

  @contextlib.contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """Adds the time inside of it to phase `name`."""
    start = time.perf_counter()
    try:
      yield
    finally:
      self.last[name] = time.perf_counter() - start
      self.seconds[name] = self.seconds.get(name, 0.0) + self.last[name]


def cut_from(path: pathlib.Path, first: int) -> None:
  """Deletes the lines of step >= `first`, and a half-written last line."""
  if not path.exists():
    return
  kept = []
  for line in path.read_text(encoding='utf-8').splitlines():
    try:
      record = json.loads(line)
    except ValueError:
      continue  # the run was killed while it wrote this line
    if record['step'] < first:
      kept.append(line + '\n')
  write_atomic(path, ''.join(kept))


def write_atomic(path: pathlib.Path, text: str) -> None:
  """Replaces a file atomically: a reader sees the old text or the new one."""
  scratch = path.with_name(path.name + '.part')
  scratch.write_text(text, encoding='utf-8')
  os.replace(scratch, path)


def write_samples(folder: pathlib.Path, step: int, text: str) -> None:
  """Writes the sample episodes of an iteration."""
  path = folder / 'samples' / f'step_{step:06d}.txt'
  path.parent.mkdir(exist_ok=True)
  write_atomic(path, text)


def write_json(path: pathlib.Path, value: object) -> None:
  """Writes JSON, indented, atomically."""
  write_atomic(path, json.dumps(value, indent=2) + '\n')


def _plain(value: SupportsFloat) -> float | int | None:
  number = value if isinstance(value, int) else float(value)
  return number if math.isfinite(number) else None
