"""Environments as one callable: in this process, or spread over servers.

Both clients are `envs.base.StepEnvs`: slot -> task or action in, slot -> step
out. The slots of a call are played in full before an error of one of them is
raised, so that inline and in processes the others are in the same state.
Threads may call a client at the same time, as long as their slots differ.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

from envs import server
from envs.base import EnvError, ServerError, Step, Task, TextEnv

_STDERR_LINES = 20  # shown when a server dies


class Client(Protocol):
  """`envs.base.StepEnvs` with an end."""

  def __call__(self, requests: Mapping[int, Task | str]) -> dict[int, Step]:
    """Resets or steps each named slot; raises the first slot's error."""
    ...

  def close(self) -> None: ...


class InlineClient:
  """Environments in this very process: for tests and tiny runs."""

  def __init__(self, make_env: Callable[[], TextEnv]):
    """Takes what makes the environment of a slot that is named first."""
    self._slots = server.Slots(make_env)
    self._lock = threading.Lock()  # worlds need not bear threads

  def __call__(self, requests: Mapping[int, Task | str]) -> dict[int, Step]:
    with self._lock:
      answers = self._slots.play(requests)
    return steps(requests, answers)

  def close(self) -> None:
    """Nothing is held; here so that clients are alike."""

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


class ProcessClient:
  """Environments in local server processes; slot s lives in server s % n."""

  def __init__(
    self,
    world: str,
    config: Mapping[str, Any],
    num_servers: int,
    *,
    timeout: float = 120.0,
    load_timeout: float = 3600.0,
  ):
    """Starts the servers and waits until all of them have answered.

    Args:
      world: its name in the registry.
      config: its options, as JSON values.
      num_servers: processes; as many as there are spare cores.
      timeout: seconds that one request may take before its server counts as
        dead.
      load_timeout: seconds that the first one to a server may take, in which it
        makes its world: a large catalogue takes minutes.

    Raises: ServerError where a server does not start.
    """
    if num_servers < 1:
      raise ServerError(f'num_servers={num_servers}: expected at least 1.')
    self._timeout, self._load_timeout = timeout, load_timeout
    self._servers: list[_Server] = []
    try:
      for _ in range(num_servers):
        self._servers.append(_Server(world, config))
      hello = {'kind': 'hello', 'protocol': server.PROTOCOL}
      _ask(dict.fromkeys(self._servers, hello), timeout)
    except BaseException:
      self.close()
      raise

  def __call__(self, requests: Mapping[int, Task | str]) -> dict[int, Step]:
    servers = self._servers  # another thread may close the client
    if not servers:
      raise ServerError('this client is closed; make a new ProcessClient.')
    shares: dict[_Server, dict[int, Any]] = collections.defaultdict(dict)
    for slot, request in requests.items():
      shares[servers[slot % len(servers)]][slot] = server.pack_request(request)
    messages = {s: {'kind': 'step', 'slots': d} for s, d in shares.items()}
    loaded = all(each.loaded for each in shares)
    try:
      replies = _ask(messages, self._timeout if loaded else self._load_timeout)
    except ServerError:
      # Some slots have moved and some have not: nobody can go on from here.
      self.close()
      raise
    for each in shares:
      each.loaded = True
    packed = {
      int(slot): value
      for reply in replies
      for slot, value in reply.get('slots', {}).items()
    }
    answers = {
      slot: server.unpack_answer(packed.get(slot)) for slot in requests
    }
    return steps(requests, answers)

  def close(self) -> None:
    """Ends the servers; harmless when done twice."""
    servers, self._servers = self._servers, []
    for each in servers:
      each.hang_up()
    for each in servers:
      each.wait()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def _ask(
  messages: Mapping[_Server, Mapping[str, Any]], timeout: float
) -> list[dict[str, Any]]:
  """Sends to every server before the first answer is awaited.

  A server answers one call at a time; calls that share several servers lock
  them in one order, so that none waits for the other.
  """
  with contextlib.ExitStack() as locked:
    for each in sorted(messages, key=id):
      locked.enter_context(each.lock)
    for each, message in messages.items():
      each.send(message)
    deadline = time.monotonic() + timeout
    return [each.receive(deadline) for each in messages]


def steps(
  requests: Mapping[int, Task | str], answers: Mapping[int, Step | EnvError]
) -> dict[int, Step]:
  """Returns the steps in the order of the requests, or raises."""
  steps = {}
  for slot in requests:
    answer = answers[slot]
    if isinstance(answer, EnvError):
      raise answer
    steps[slot] = answer
  return steps


class _Server:
  """One server process and the two threads that read what it writes.

  Threads, because a pipe cannot be read with a time limit on every system, and
  because a server whose stderr nobody reads stops when the pipe is full.
  """

  def __init__(self, world: str, config: Mapping[str, Any]):
    self._command = [
      sys.executable, '-m', 'envs.server',
      f'--world={world}', f'--config={json.dumps(config)}',
    ]  # fmt: skip
    root = str(pathlib.Path(__file__).resolve().parents[1])
    path = [root, *filter(None, [os.environ.get('PYTHONPATH')])]
    self._process = subprocess.Popen(
      self._command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      encoding='utf-8',
      errors='replace',
      env={**os.environ, 'PYTHONPATH': os.pathsep.join(path)},
      # Ctrl-C in a terminal is for the trainer, which still has to play its
      # episode to the end; servers end with their stdin.
      start_new_session=True,
    )
    self.lock = threading.Lock()  # held from a request to its answer
    self.loaded = False  # has it answered for its environments yet?
    self._number = 0
    self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    self._stderr: collections.deque[str] = collections.deque(
      maxlen=_STDERR_LINES
    )
    self._threads = [
      threading.Thread(target=target, daemon=True)
      for target in (self._read_answers, self._read_stderr)
    ]
    for thread in self._threads:
      thread.start()

  def send(self, message: Mapping[str, Any]) -> None:
    self._number += 1
    line = json.dumps({'id': self._number, **message}) + '\n'
    assert self._process.stdin is not None
    try:
      self._process.stdin.write(line)
      self._process.stdin.flush()
    except (OSError, ValueError):
      raise self._dead() from None

  def receive(self, deadline: float) -> dict[str, Any]:
    """Returns the answer to the last message.

    Answers with an older id belong to a call that was interrupted.
    """
    while True:
      wait = max(0.0, deadline - time.monotonic())
      try:
        line = self._lines.get(timeout=wait)
      except queue.Empty:
        raise ServerError(
          'an environment server did not answer in time: '
          f'{self._story()} Raise the timeout or look at the world.'
        ) from None
      if line is None:
        raise self._dead()
      reply = self._parse(line)
      if reply.get('kind') == 'error':
        raise ServerError(
          f'an environment server refused a request: {reply.get("message")}'
        )
      if reply.get('id') == self._number:
        return reply

  def hang_up(self) -> None:
    """Closes the server's stdin, which ends it."""
    assert self._process.stdin is not None
    # It may have died with a request unread; `wait` collects it.
    with contextlib.suppress(OSError):
      self._process.stdin.close()

  def wait(self, timeout: float = 2.0) -> None:
    """Waits for the end of the process; kills it where it hangs."""
    try:
      self._process.wait(timeout)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    for thread in self._threads:
      thread.join(timeout=1)
    for pipe in (self._process.stdout, self._process.stderr):
      if pipe is not None:
        pipe.close()

  def _parse(self, line: str) -> dict[str, Any]:
    try:
      reply = json.loads(line)
    except ValueError:
      reply = None
    if not isinstance(reply, dict):
      raise ServerError(
        f'an environment server wrote {line[:200]!r}: expected a JSON object. '
        f'{self._story()}'
      )
    return reply

  def _dead(self) -> ServerError:
    self.hang_up()
    self.wait()
    return ServerError(
      f'an environment server ended with exit code {self._process.returncode} '
      f'while it was needed: {self._story()} Run it by hand to see more, or '
      'resume from the last checkpoint.'
    )

  def _story(self) -> str:
    lines = ''.join(self._stderr) or '(nothing)\n'
    return f'{self._command}; its last words on stderr:\n{lines}'

  def _read_answers(self) -> None:
    assert self._process.stdout is not None
    for line in self._process.stdout:
      self._lines.put(line)
    self._lines.put(None)

  def _read_stderr(self) -> None:
    assert self._process.stderr is not None
    self._stderr.extend(self._process.stderr)
