"""Environments in this process, as one callable.

The callable is `envs.base.StepEnvs`: environment number -> task or action in,
environment number -> step out. All environments of a call are played before the
error of one of them is raised, so that the others are in the same state here
and behind servers (`envs.serving`). Threads may share a client as long as they
name different environments.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Self

from envs.base import EnvError, ServerError, Step, Task, TextEnv


class Environments:
  """Environments by number, each made when it is first named."""

  def __init__(self, make_env: Callable[[], TextEnv]):
    """Takes what makes one environment."""
    self._make_env = make_env
    self._envs: dict[int, TextEnv] = {}

  def play(self, env_id: int, request: Task | str) -> Step | EnvError:
    """Resets or steps one environment; its error is returned, not raised.

    An exception that is no `EnvError` is a defect of the world; it comes back
    as a `ServerError` with its traceback.
    """
    try:
      if env_id not in self._envs:
        self._envs[env_id] = self._make_env()
      env = self._envs[env_id]
      if isinstance(request, str):
        return env.step(request)
      return env.reset(request)
    except EnvError as error:
      return error
    except Exception:
      return ServerError(
        f'environment {env_id} failed at {request!r}; this is a defect of its '
        f'world:\n{traceback.format_exc()}'
      )


class InlineClient:
  """Environments in this very process: for tests and small runs."""

  def __init__(self, make_env: Callable[[], TextEnv]):
    """Takes what makes one environment."""
    self._envs = Environments(make_env)
    self._lock = threading.Lock()  # worlds need not be thread-safe

  def __call__(self, requests: Mapping[int, Task | str]) -> dict[int, Step]:
    """Resets or steps each environment; raises the first one's error."""
    with self._lock:
      answers = {i: self._envs.play(i, r) for i, r in requests.items()}
    return steps(requests, answers)

  def close(self) -> None:
    """Nothing is held; here so that clients are alike."""

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def steps(
  requests: Mapping[int, Task | str], answers: Mapping[int, Step | EnvError]
) -> dict[int, Step]:
  """Returns the steps in the order of the requests, or raises."""
  steps = {}
  for env_id in requests:
    answer = answers[env_id]
    if isinstance(answer, EnvError):
      raise answer
    steps[env_id] = answer
  return steps
