"""Signals -> flags that the loop reads where it can stop without loss.

SIGTERM of one process is told to all: its machine goes away soon, and nothing
can be saved before the others have stopped playing too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from hgpo_jax.multihost import hosts
from hgpo_jax.multihost.exchange import Preempted

_EVERY = 1.0  # seconds between two looks at what others were told


@dataclasses.dataclass
class Stop:
  """What this process was asked for.

  Attributes:
    soon: to stop after the iteration (Ctrl-C).
    now: to give up what is being played, as the machine will go away (SIGTERM).
  """

  soon: bool = False
  now: bool = False

  def check(self) -> None:
    """Raises Preempted if playing is to be given up."""
    if self.now:
      raise Preempted('SIGTERM')


def unless_stopped(
  stop: Stop, step_envs: Callable[[Any], Any]
) -> Callable[[Any], Any]:
  """EnvironmentPool that play no further, with `Preempted`, after SIGTERM."""

  def step(requests: Any) -> Any:
    stop.check()
    return step_envs(requests)

  return step


@contextlib.contextmanager
def on_sigterm(stop: Stop) -> Iterator[None]:
  """Notes SIGTERM, of this process or of another one of the run."""

  def note() -> None:
    stop.now = True

  with _heard(signal.SIGTERM, note):
    if hosts.count() == 1:
      yield
    else:
      with _told_to_all(stop):
        yield


@contextlib.contextmanager
def on_ctrl_c(stop: Stop) -> Iterator[None]:
  """Notes the first Ctrl-C; the second stops at once."""

  def note() -> None:
    if stop.soon:
      raise KeyboardInterrupt
    stop.soon = True
    # Not print(): the signal may have come in the middle of one.
    os.write(1, b'\nstopping after this iteration; Ctrl-C again stops now\n')

  with _heard(signal.SIGINT, note):
    yield


@contextlib.contextmanager
def _told_to_all(stop: Stop) -> Iterator[None]:
  """Runs a thread that listens to the others, and for them.

  The main thread may be inside of XLA, waiting for the others, and Python calls
  no handler meanwhile; but the number of a signal is written to a socket at
  once.
  """
  reader, writer = socket.socketpair()
  writer.setblocking(False)
  before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
  thread = threading.Thread(target=_listen, args=(stop, reader), daemon=True)
  thread.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    writer.close()
    thread.join(2 * _EVERY)  # no longer: it may ask a process that is dead


def _listen(stop: Stop, signals: socket.socket) -> None:
  """Sets `stop.now` here and everywhere; ends with the other end."""
  with signals, contextlib.suppress(RuntimeError):  # JAX ends us soon
    while not stop.now:
      if select.select([signals], [], [], _EVERY)[0]:
        numbers = signals.recv(64)
        if not numbers:
          return
        stop.now |= signal.SIGTERM in numbers
      elif hosts.rung('SIGTERM'):
        stop.now = True
        return
    hosts.ring('SIGTERM')


@contextlib.contextmanager
def _heard(number: int, note: Callable[[], None]) -> Iterator[None]:
  try:
    before = signal.signal(number, lambda *_: note())
  except ValueError:  # not the main thread: signals are somebody else's
    yield
    return
  try:
    yield
  finally:
    signal.signal(number, before)
