"""Signals -> flags that the loop reads where it can stop without loss.

SIGTERM of one process stops all: its machine goes away soon, and a checkpoint
can be saved only when the others have stopped playing, too.
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

from hgpo_jax.multihost import hosts
from hgpo_jax.multihost.exchange import Preempted

_FLAG = 'SIGTERM'  # its name for all processes
_EVERY = 1.0  # seconds between two looks at the flag


@dataclasses.dataclass
class Stop:
  """How this process was asked to stop.

  Attributes:
    after_iteration: by Ctrl-C: when the iteration is done.
    now: by SIGTERM: at once, without the episodes that are being played, as
      the machine will go away.
  """

  after_iteration: bool = False
  now: bool = False

  def check(self) -> None:
    """Raises Preempted after SIGTERM."""
    if self.now:
      raise Preempted('SIGTERM')


@contextlib.contextmanager
def on_sigterm(stop: Stop) -> Iterator[None]:
  """Sets `stop.now` at SIGTERM of any process of the run."""

  def note() -> None:
    stop.now = True

  with _handler(signal.SIGTERM, note):
    if hosts.count() == 1:
      yield
    else:
      with _shared(stop):
        yield


@contextlib.contextmanager
def on_ctrl_c(stop: Stop) -> Iterator[None]:
  """Sets `stop.after_iteration` at Ctrl-C; the second one stops at once."""

  def note() -> None:
    if stop.after_iteration:
      raise KeyboardInterrupt
    stop.after_iteration = True
    # Not print(): the signal may have come in the middle of one.
    os.write(1, b'\nstopping after this iteration; Ctrl-C again stops now\n')

  with _handler(signal.SIGINT, note):
    yield


@contextlib.contextmanager
def _shared(stop: Stop) -> Iterator[None]:
  """Runs a thread that shares SIGTERM with the other processes.

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
    thread.join(2 * _EVERY)  # no longer: the process it asks may be dead


def _listen(stop: Stop, signals: socket.socket) -> None:
  """Sets `stop.now` in all processes; ends when the socket is closed."""
  with signals, contextlib.suppress(RuntimeError):  # JAX ends us soon
    while not stop.now:
      if select.select([signals], [], [], _EVERY)[0]:
        numbers = signals.recv(64)
        if not numbers:
          return
        stop.now |= signal.SIGTERM in numbers
      elif hosts.flag_is_set(_FLAG):
        stop.now = True
        return
    hosts.set_flag(_FLAG)


@contextlib.contextmanager
def _handler(number: int, note: Callable[[], None]) -> Iterator[None]:
  """Calls `note` at a signal, and restores the handler before it."""
  try:
    before = signal.signal(number, lambda *_: note())
  except ValueError:  # not the main thread, which alone may handle signals
    yield
    return
  try:
    yield
  finally:
    signal.signal(number, before)
