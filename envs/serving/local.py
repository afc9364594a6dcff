"""Servers on this machine: those that `env.servers` starts, and for tests."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pathlib
import secrets
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from envs.base import ServerError
from envs.serving import client, fleet

_LOOK = 0.5  # seconds between two calls of `check` while a server loads
_YOUNG = 30.0  # seconds; a server that dies so soon after a restart stays dead
_STOP = 2.0  # seconds that a server gets to end
_STDERR_LINES = 20  # shown when a server dies


@contextlib.contextmanager
def open_client(
  world: str,
  options: Mapping[str, Any],
  count: int,
  *,
  timeout: float = 120.0,
  patience: float = 600.0,
  check: Callable[[], None] = lambda: None,
) -> Iterator[client.GrpcClient]:
  """A client of `count` servers on loopback that live as long as it does.

  A random token keeps other users of the machine out. A server that dies is
  started again and its episodes are rebuilt, unless it dies again soon.

  Args:
    world: its name in the registry.
    options: its options, as JSON values.
    count: processes; as many as there are spare cores.
    timeout: see `GrpcClient`.
    patience: see `GrpcClient`.
    check: see `GrpcClient`; also called while servers start.

  Raises: ServerError where a server does not start.
  """
  if count < 1:
    raise ServerError(f'{count} servers: expected at least 1.')
  token = secrets.token_hex()
  with contextlib.ExitStack() as stack:
    servers = [
      stack.enter_context(LocalServer(world, options, token))
      for _ in range(count)
    ]
    addresses = [server.ready(check) for server in servers]

    def watch() -> None:
      check()
      for server in servers:
        server.revive()

    yield stack.enter_context(
      client.GrpcClient(
        addresses,
        world,
        options,
        fleet.Credentials(token),
        timeout=timeout,
        patience=patience,
        check=watch,
      )
    )


def command(world: str, options: Mapping[str, Any]) -> list[str]:
  """What serves a world with these options, as JSON values.

  Its stdin has to be a pipe; it ends when the other end is closed.
  """
  return [
    sys.executable, '-m', 'envs.serve', f'--world={world}',
    f'--options={json.dumps(options)}', '--until_stdin_ends',
  ]  # fmt: skip


class LocalServer:
  """`python -m envs.serve` as a process that can be started again."""

  def __init__(
    self,
    world: str,
    options: Mapping[str, Any],
    token: str = '',
  ):
    """Starts a server at a free port of loopback; `ready` waits for it.

    Args:
      world: its name in the registry.
      options: its options, as JSON values.
      token: what clients have to know; '' asks for nothing.
    """
    self._command, self._token = command(world, options), token
    self._port, self._restarts = 0, 0
    self._lock = threading.Lock()
    self._start()

  def ready(self, check: Callable[[], None] = lambda: None) -> str:
    """Waits until it serves; returns its address.

    A world may load for minutes, so this waits as long as the process lives.

    Args:
      check: called meanwhile; what it raises ends the wait.

    Raises: ServerError where the process ends instead.
    """
    stdout = self.process.stdout
    assert stdout is not None
    poll = select.poll()
    poll.register(stdout, select.POLLIN)  # and its end, always
    while not poll.poll(1000 * _LOOK):
      check()
    line = stdout.readline()
    if not line.startswith('serving '):
      raise ServerError(f'an environment server did not start: {self._story()}')
    address = line.split()[-1]
    self._port = int(address.rpartition(':')[2])
    return address

  def revive(self) -> None:
    """Starts it again, at the same port, if it is dead.

    Raises: ServerError where it died soon after it was started again.
    """
    if self.process.poll() is None:
      return
    with self._lock:  # threads share a client
      if self.process.poll() is None:
        return
      story = self._story()
      if self._restarts and time.monotonic() - self._started < _YOUNG:
        raise ServerError(
          f'an environment server dies again and again: {story} Run it by hand '
          'to see more, or resume from the last checkpoint.'
        )
      print(
        f'Starting an environment server again: {story}',
        file=sys.stderr,
        flush=True,
      )
      self._restarts += 1
      self.restart()

  def restart(self) -> None:
    """Kills it if it still runs, and starts it at the same port."""
    self.kill()
    self._start()

  def kill(self) -> None:
    """SIGKILL, as when its machine is taken away."""
    self.process.kill()
    self._await_end()
    for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
      if pipe is not None:
        pipe.close()

  def close(self) -> None:
    """Ends it; kills it where it hangs. Harmless when done twice."""
    assert self.process.stdin is not None
    self.process.stdin.close()
    self._await_end()
    self.kill()

  def _await_end(self) -> None:
    """Waits until it and its output have ended; kills it where it hangs."""
    with contextlib.suppress(subprocess.TimeoutExpired):
      self.process.wait(_STOP)
    self.process.kill()
    self.process.wait()
    self._reader.join(1)

  def _start(self) -> None:
    root = str(pathlib.Path(__file__).resolve().parents[2])
    path = [root, *filter(None, [os.environ.get('PYTHONPATH')])]
    arguments, files = [f'--port={self._port}'], []
    with contextlib.ExitStack() as stack:
      if self._token:  # by a pipe: other users can read the arguments
        read, write = os.pipe()
        stack.callback(os.close, read)
        with open(write, 'w', encoding='ascii') as pipe:
          pipe.write(self._token)
        arguments.append(f'--token_file=/dev/fd/{read}')
        files.append(read)
      self.process = subprocess.Popen(
        [*self._command, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding='utf-8',
        errors='replace',
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(path)},
        pass_fds=files,
        start_new_session=True,  # Ctrl-C is for the trainer
      )
    self._started = time.monotonic()
    self._lines: collections.deque[str] = collections.deque(
      maxlen=_STDERR_LINES
    )
    # A server whose stderr is not read stops when the pipe is full.
    self._reader = threading.Thread(
      target=self._lines.extend, args=(self.process.stderr,), daemon=True
    )
    self._reader.start()

  def _story(self) -> str:
    """How it ended; killed where it has not."""
    self._await_end()
    return (
      f'{self._command} ended with exit code {self.process.returncode}; its '
      f'last lines on stderr:\n{"".join(self._lines) or "(nothing)"}'
    )

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()
