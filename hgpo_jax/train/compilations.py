"""Counts XLA's compilations and their seconds."""

from __future__ import annotations

from typing import Self

import jax

_EVENT = '/jax/core/compile/backend_compile_duration'


class Compilations:
  """Counts the backend's compilations while it is open, eager ones included.

  Attributes:
    count: programs compiled.
    seconds: time spent on them.
  """

  def __init__(self) -> None:
    self.count, self.seconds = 0, 0.0
    jax.monitoring.register_event_duration_secs_listener(self._on_event)

  def close(self) -> None:
    """Stops counting; the numbers stay."""
    jax.monitoring.unregister_event_duration_listener(self._on_event)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def _on_event(
    self, event: str, duration_secs: float, **kwargs: object
  ) -> None:
    del kwargs
    if event == _EVENT:
      self.count += 1
      self.seconds += duration_secs
