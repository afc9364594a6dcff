"""Environment servers of one host: started, watched, started again."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from envs.serving import local
from experiments import logs
from launch.job import LaunchError

_LOOK_SECONDS, _PROBE_SECONDS, _AGAIN_SECONDS = 0.2, 2.0, 1.0
_STOP_SECONDS = 5.0


class EnvServer:
  """`envs.serve` on loopback, at an address that it keeps when it dies."""

  def __init__(
    self, command: Sequence[str], port: int, log: pathlib.Path, lifeline: int
  ):
    """Starts it.

    Args:
      command: see `envs.serving.local`.
      port: of loopback.
      log: what it writes to.
      lifeline: read end of a pipe; it ends when nobody can write there.
    """
    self.address, self.log = f'127.0.0.1:{port}', log
    self.starts, self._lifeline = 0, lifeline
    self._command = [*command, f'--port={port}']
    self._start()

  def _start(self) -> None:
    self.starts += 1
    self._started = time.monotonic()
    self.process = logs.popen(self._command, self.log, stdin=self._lifeline)

  def healthy(self) -> bool:
    """Whether it serves; raises LaunchError where it has ended instead."""
    if (code := self.process.poll()) is not None:
      raise LaunchError(
        f'an environment server ended with {code} before it served: '
        f'{logs.tail(self.log)}'
      )
    import grpc  # a run without servers needs no gRPC

    from envs.serving import server

    with grpc.insecure_channel(
      self.address, options=[('grpc.enable_http_proxy', 0)]
    ) as channel:
      check = channel.unary_unary(f'/{server.HEALTH}/Check')
      try:
        return check(b'', timeout=_PROBE_SECONDS) == server.SERVING
      except grpc.RpcError:
        return False

  def revive(self) -> bool:
    """Starts it again if it is dead; returns whether it did."""
    young = time.monotonic() - self._started < _AGAIN_SECONDS
    if self.process.poll() is None or young:
      return False
    self._start()
    return True

  def stop(self) -> None:
    """Ends it; it holds nothing that could be lost."""
    self.process.terminate()
    try:
      self.process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
      self.process.kill()
      self.process.wait()


@contextlib.contextmanager
def lifeline() -> Iterator[tuple[int, int]]:
  """A pipe that nobody writes to: servers end when its last writer has.

  So they end with this process however it ends, unless a trainer that inherits
  the second of the two files outlives it.
  """
  ends = os.pipe()
  try:
    yield ends
  finally:
    for end in ends:
      os.close(end)


@contextlib.contextmanager
def serving(
  world: str,
  options: Mapping[str, Any],
  count: int,
  log: Callable[[int], Any],
  alive: int,
) -> Iterator[list[EnvServer]]:
  """Starts servers of a world.

  Args:
    world: what is played.
    options: of the world.
    count: how many.
    log: number of a server -> what it writes to.
    alive: the first of `lifeline`.
  """
  command = local.command(world, options)
  with contextlib.ExitStack() as started:
    servers = []
    for number, port in enumerate(free_ports(count)):
      servers.append(EnvServer(command, port, log(number), alive))
      started.callback(servers[-1].stop)
    yield servers


def await_healthy(
  servers: Sequence[EnvServer], patience: float, stopped: Callable[[], bool]
) -> None:
  """Waits until all of them serve, or `stopped`; raises LaunchError if late."""
  waiting, end = list(servers), time.monotonic() + patience
  while waiting and not stopped():
    waiting = [server for server in waiting if not server.healthy()]
    if waiting and time.monotonic() > end:
      raise LaunchError(
        f'{len(waiting)} environment servers do not serve after {patience:.0f} '
        f's; {waiting[0].log} may say why.'
      )
    if waiting:
      time.sleep(_LOOK_SECONDS)


def free_ports(count: int) -> list[int]:
  """Returns ports of loopback that nobody listens on, all different."""
  with contextlib.ExitStack() as held:
    sockets = [
      held.enter_context(socket.create_server(('127.0.0.1', 0)))
      for _ in range(count)
    ]
    return [each.getsockname()[1] for each in sockets]
