"""The environments of a rollout: what is opened, and who calls them when."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol


class Step(Protocol):
  """What an environment returns (the fields that a rollout reads)."""

  @property
  def observation(self) -> str:
    """What the policy reads."""
    ...

  @property
  def admissible(self) -> tuple[str, ...]:
    """The actions that the world understands now."""
    ...

  @property
  def reward(self) -> float:
    """In the world's units."""
    ...

  @property
  def truncated(self) -> bool:
    """Whether the step limit ended the episode."""
    ...

  @property
  def won(self) -> bool:
    """Whether the task is solved."""
    ...

  @property
  def done(self) -> bool:
    """Whether the episode is over."""
    ...

  @property
  def parts(self) -> Mapping[str, float]:
    """Parts of the reward by name."""
    ...


# Number of an environment -> task or action, to number -> step.
StepEnvs = Callable[[Mapping[int, Any]], Mapping[int, Step]]


class AgentLayer(Protocol):
  """The words between environment and policy; see `envs/agent.py`.

  A `step` is what the world's own environments return.
  """

  def task(self, first_observation: str, /) -> str:
    """The task, as the first observation states it."""
    ...

  def message(
    self, task: str, history: Sequence[tuple[str, str]], step: Any
  ) -> str:
    """The prompt of a turn; history is pairs (observation, action)."""
    ...

  def replies(self, step: Any) -> Sequence[str]:
    """The replies that constrained decoding allows; () allows any."""
    ...

  def written(self, action: str) -> str:
    """The reply that plays an action."""
    ...

  def project(self, reply: str, step: Any) -> tuple[str, bool]:
    """The action of a reply, and whether the reply was well formed."""
    ...


@dataclasses.dataclass(frozen=True)
class Environments:
  """An opened world, as callables and words.

  Attributes:
    world: tasks, their kinds, demonstrations (see envs/world.py).
    make_task: (split, index) -> task.
    agent: the words.
    words: the template as JSON; a warm start depends on it.
    step_envs: resets and steps the environments.
    counts: what happened to their servers so far, by name.
    check: called between turns; it raises where play must be given up.
  """

  world: Any  # envs.world.World, which this package does not import
  make_task: Callable[[str, int], Hashable]
  agent: AgentLayer
  words: Mapping[str, Any]
  step_envs: StepEnvs
  counts: Callable[[], Mapping[str, float]] = dict
  check: Callable[[], None] = lambda: None


class EnvironmentPool:
  """Takes requests by environment number; returns steps in any order.

  With workers each environment is a call of its own and several are in flight,
  so that a slow environment delays no other. Without, all are called together.
  """

  def __init__(self, step_envs: StepEnvs, workers: int):
    """Takes the environments and the number of threads; 0 uses none."""
    self._step_envs = step_envs
    self._requests: dict[int, Any] = {}  # without workers: not called yet
    self._calls: dict[concurrent.futures.Future[Mapping[int, Step]], int] = {}
    self._executor = (
      concurrent.futures.ThreadPoolExecutor(workers, 'environments')
      if workers
      else None
    )

  @property
  def in_flight(self) -> int:
    """Requests without an answer."""
    return len(self._requests) + len(self._calls)

  def send(self, requests: Mapping[int, Any]) -> None:
    """Sends tasks or actions to environments that have none in flight."""
    if self._executor is None:
      self._requests |= requests
      return
    for env, request in requests.items():
      call = self._executor.submit(self._step_envs, {env: request})
      self._calls[call] = env

  def receive(self, least: int) -> dict[int, Step]:
    """Returns the steps that are there, by environment number.

    Args:
      least: how many to wait for, at most as many as are in flight.

    Raises: the first error of an environment.
    """
    if self._executor is None:
      requests, self._requests = self._requests, {}
      return dict(self._step_envs(requests)) if requests else {}
    steps: dict[int, Step] = {}
    while self._calls:
      missing = len(steps) < least
      done, _ = concurrent.futures.wait(
        self._calls,
        timeout=None if missing else 0,
        return_when=concurrent.futures.FIRST_COMPLETED,
      )
      for call in done:
        env = self._calls.pop(call)
        steps[env] = call.result()[env]
      if not missing:
        break
    return steps

  def close(self) -> None:
    """Drops the requests that were not called yet; waits for nothing."""
    if self._executor is not None:
      self._executor.shutdown(wait=False, cancel_futures=True)
