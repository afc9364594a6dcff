"""Several servers that play the same, some of which may be down."""

from __future__ import annotations

import shlex
import sys
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from envs.base import ServerError
from envs.serving import protocol, server
from envs.serving.remote import Remote

NAP = 0.02  # seconds between two looks at servers that are busy or down
_PATIENT = 5.0  # seconds of waiting until it is reported


class ServersLost(ServerError):
  """Servers are away, or not the expected ones; the text names them all."""


class Fleet:
  """Knows which servers are up, and lets in none that plays something else."""

  def __init__(self, servers: Sequence[Remote], expected: protocol.Identity):
    """Takes at least one server, and what they should play.

    Args:
      servers: not yet up.
      expected: with data '' for that of the first server that answers.
    """
    self._servers, self.expected = servers, expected
    self._lock = threading.Lock()

  def look(self) -> int:
    """Probes those that are down, without waiting; returns how many came up."""
    return sum(server.look(self._wrong) for server in self._servers)

  def await_all(self, seconds: float, check: Callable[[], None]) -> None:
    """Waits until all are up; a long wait is reported once, on stderr.

    Args:
      seconds: that it waits at most.
      check: called meanwhile; what it raises ends the wait.

    Raises: ServersLost where one is not up in time, or, as soon as all were
      tried, where one is there and will not become the right one by waiting.
    """
    start, reported = time.monotonic(), False
    while not all(server.up for server in self._servers):
      check()
      self.look()
      tried = all(server.heard for server in self._servers)
      if tried and any(server.refuses for server in self._servers):
        raise self._refused()
      waited = time.monotonic() - start
      if waited > seconds:
        raise self.lost('in time')
      if waited > _PATIENT and not reported:
        self._report(seconds - waited)
        reported = True
      time.sleep(NAP)

  def choose(self, env_id: int, here: Remote | None) -> Remote | None:
    """Returns a server that is up for an environment; None if all are down.

    Args:
      env_id: belongs to server env_id % n; the next ones stand in.
      here: where its episode is; it stays there while it can.
    """
    if here is not None and here.up:
      return here
    n = len(self._servers)
    ring = (self._servers[(env_id + i) % n] for i in range(n))
    return next((server for server in ring if server.up), None)

  def lost(self, when: str) -> ServersLost:
    """The error that names every server and what is wrong with it."""
    return ServersLost(
      f'environment servers did not answer {when}:{self._states()}\nResume '
      'when they are back. With `env.servers` the run starts its own; others '
      f'are started by\n  {self._command()}'
    )

  def _refused(self) -> ServersLost:
    return ServersLost(
      f'environment servers do not serve this client:{self._states()}\nGive it '
      'their token, or start servers from the same sources and data with\n  '
      f'{self._command()}'
    )

  def _report(self, left: float) -> None:
    """Says what is waited for, for `left` seconds more."""
    until = time.strftime('%H:%M:%S', time.localtime(time.time() + left))
    print(
      f'Waiting until {until} (another {left:.0f} s) for environment servers:'
      f'{self._states()}\nEach is started by\n  {self._command()}',
      file=sys.stderr,
      flush=True,
    )

  def _states(self) -> str:
    """A line for every server."""
    return ''.join(
      f'\n  {server.address}: {"up" if server.up else server.reason}'
      for server in self._servers
    )

  def _command(self) -> str:
    """What starts a server of this world, but for where it listens."""
    world, options = self.expected.world, self.expected.options
    return (
      f'python -m envs.serve --world={shlex.quote(world)} '
      f'--options={shlex.quote(options)}'
    )

  def close(self, leave: protocol.Leave) -> None:
    """Sends `leave` to those that are up, and closes all connections."""
    data = protocol.encode(leave)
    calls = [s.send('Leave', data, 1.0) for s in self._servers if s.up]
    for call in calls:
      call.exception()  # waits; one that fails forgets in its own time
    for remote in self._servers:
      remote.close()

  def _wrong(self, found: protocol.Identity) -> str:
    """What is wrong with a server; the first one sets the data's hash."""
    with self._lock:
      expected = self.expected
      if not expected.data:
        expected = msgspec.structs.replace(expected, data=found.data)
      if not (wrong := server.differences(found, expected)):
        self.expected = expected
    return wrong
