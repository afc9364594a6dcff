"""Runs work in the background, some at once, and stops it gently on signals."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from experiments import logs

# Exit code where everything is saved, and the same command continues.
RESUME = os.EX_TEMPFAIL
_LOOK_SECONDS = 0.2


class Signals:
  """What signals ask for: `stop` at first, and after a second Ctrl-C `kill`.

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


@dataclasses.dataclass(frozen=True)
class Work:
  """What some processes do together.

  Attributes:
    name: for people.
    start: starts them; SIGTERM stops each gently, and then SIGINT at once.
    logs: what each of them writes to.
  """

  name: str
  start: Callable[[], list[subprocess.Popen[bytes]]]
  logs: tuple[pathlib.Path, ...]


@dataclasses.dataclass
class _Running:
  """Work in progress."""

  work: Work
  processes: list[subprocess.Popen[bytes]]
  start: float

  @property
  def codes(self) -> list[int | None]:
    return [process.poll() for process in self.processes]

  def tell(self, number: int) -> None:
    for process in self.processes:
      if process.poll() is None:
        process.send_signal(number)


def play(
  works: Sequence[Work], at_once: int, say: Callable[[str], None] = print
) -> list[Work]:
  """Does work, `at_once` of it together.

  What fails does not stop the others. When this is interrupted, all are stopped
  gently, which may take an iteration of a run; a second Ctrl-C ends them.

  Returns: what failed.
  Raises: KeyboardInterrupt when it was interrupted, and nothing runs any more.
  """
  waiting, failed = collections.deque(works), []
  running: list[_Running] = []
  with Signals() as signals:
    try:
      while (waiting or running) and not signals.stop:
        while waiting and len(running) < at_once:
          work = waiting.popleft()
          running.append(_Running(work, work.start(), time.perf_counter()))
          say(f'{work.name}: started; it writes to {work.logs[0]}')
        time.sleep(_LOOK_SECONDS)
        for entry in _ended(running):
          running.remove(entry)
          say(_outcome(entry))
          if any(entry.codes):
            failed.append(entry.work)
    finally:
      _stop(running, signals, say)
    if signals.stop:
      raise KeyboardInterrupt
  return failed


def _ended(running: Sequence[_Running]) -> Iterator[_Running]:
  """Work all of whose processes have ended; where one failed, all have to."""
  for entry in list(running):
    codes = entry.codes
    if None not in codes:
      yield entry
    elif any(codes):
      entry.tell(signal.SIGTERM)


def _stop(
  running: Sequence[_Running], signals: Signals, say: Callable[[str], None]
) -> None:
  """Ends what runs: gently, and after another Ctrl-C at once."""
  if running:
    say(f'stopping {", ".join(x.work.name for x in running)}: they save')
  sent = None
  while any(None in entry.codes for entry in running):
    # Only a process that was told to stop takes SIGINT for the second Ctrl-C.
    number = signal.SIGINT if signals.kill and sent else signal.SIGTERM
    if number != sent:
      for entry in running:
        entry.tell(number)
      sent = number
    time.sleep(_LOOK_SECONDS)


def _outcome(entry: _Running) -> str:
  """How work ended: if badly, by what failed first, as far as can be told."""
  name = entry.work.name
  if not any(entry.codes):
    return f'{name}: finished, {time.perf_counter() - entry.start:.0f} s'
  failures = [(code, i) for i, code in enumerate(entry.codes) if code]
  code, number = min(failures, key=lambda x: x[0] == RESUME)
  return f'{name}: failed with {code}; {logs.tail(entry.work.logs[number])}'
