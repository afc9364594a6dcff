"""Signals -> flags, which a loop reads where nothing can be lost."""

from __future__ import annotations

import signal
from typing import Any


class Signals:
  """What this process is told: `stop` at first, by Ctrl-C again `kill`.

  SIGTERM only ever means `stop`: schedulers may send it twice.
  """

  def __init__(self) -> None:
    self.stop = self.kill = False
    self._before: dict[int, Any] = {}

  def _hear(self, number: int, frame: Any) -> None:
    self.kill |= self.stop and number == signal.SIGINT
    self.stop = True

  def __enter__(self) -> Signals:
    for number in (signal.SIGTERM, signal.SIGINT):
      self._before[number] = signal.signal(number, self._hear)
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)


def end_like_ctrl_c() -> None:
  """Lets SIGTERM and SIGINT raise KeyboardInterrupt in this process.

  Also where a shell has told background jobs to ignore Ctrl-C.
  """
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.default_int_handler)
