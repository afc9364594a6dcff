"""Signals -> flags that the loop reads where it can stop without loss."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

from hgpo_jax.train.exchange import Preempted


@dataclasses.dataclass
class Stop:
  """What this process was asked for.

  Attributes:
    soon: to stop after the iteration (Ctrl-C).
    now: to give up what is being played, as the machine will go away (SIGTERM).
  """

  soon: bool = False
  now: bool = False


def unless_stopped(
  stop: Stop, step_envs: Callable[[Any], Any]
) -> Callable[[Any], Any]:
  """Environments that play no further, with `Preempted`, after SIGTERM."""

  def step(requests: Any) -> Any:
    if stop.now:
      raise Preempted('SIGTERM')
    return step_envs(requests)

  return step


@contextlib.contextmanager
def on_sigterm(stop: Stop) -> Iterator[None]:
  """Notes SIGTERM."""

  def note() -> None:
    stop.now = True

  with _heard(signal.SIGTERM, note):
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
