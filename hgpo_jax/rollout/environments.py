"""EnvironmentPool that answer when they are done, called here or by threads."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self


class Step(Protocol):
  """What an environment answers (the fields that a rollout reads)."""

  @property
  def observation(self) -> str: ...

  @property
  def admissible(self) -> tuple[str, ...]: ...

  @property
  def reward(self) -> float: ...

  @property
  def truncated(self) -> bool: ...

  @property
  def won(self) -> bool: ...

  @property
  def done(self) -> bool: ...

  @property
  def parts(self) -> Mapping[str, float]: ...


StepEnvs = Callable[[Mapping[int, Any]], Mapping[int, Step]]


class EnvironmentPool:
  """Requests in; answers out, in any order.

  With workers every slot is a call of its own and several are under way, so
  that a slow environment delays nobody. Without, all are called together.
  """

  def __init__(self, step_envs: StepEnvs, workers: int):
    """Takes the environments and the number of threads; 0 is none."""
    self._step_envs = step_envs
    self._requests: dict[int, Any] = {}  # without workers: not called yet
    self._calls: dict[concurrent.futures.Future, int] = {}
    self._pool = (
      concurrent.futures.ThreadPoolExecutor(workers, 'environments')
      if workers
      else None
    )

  @property
  def in_flight(self) -> int:
    """Requests without an answer."""
    return len(self._requests) + len(self._calls)

  def send(self, requests: Mapping[int, Any]) -> None:
    """Gives tasks or actions to slots whose last answer was taken."""
    if self._pool is None:
      self._requests |= requests
      return
    for slot, request in requests.items():
      call = self._pool.submit(self._step_envs, {slot: request})
      self._calls[call] = slot

  def answers(self, least: int) -> dict[int, Step]:
    """Takes the answers that are there, by slot.

    Args:
      least: how many to wait for; fewer come where fewer are under way.

    Raises: the first error of an environment.
    """
    if self._pool is None:
      requests, self._requests = self._requests, {}
      return dict(self._step_envs(requests)) if requests else {}
    found: dict[int, Step] = {}
    while self._calls:
      missing = len(found) < least
      done, _ = concurrent.futures.wait(
        self._calls,
        timeout=None if missing else 0,
        return_when=concurrent.futures.FIRST_COMPLETED,
      )
      for call in done:
        slot = self._calls.pop(call)
        found[slot] = call.result()[slot]
      if not missing:
        break
    return found

  def close(self) -> None:
    """Drops what was not called yet, and waits for nothing."""
    if self._pool is not None:
      self._pool.shutdown(wait=False, cancel_futures=True)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()
