"""Several remote servers that play the same, some of which may be down."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence

from envs import grpc_server, wire
from envs.base import ServerError
from envs.remote import Remote

NAP = 0.02  # seconds between two looks at servers that are busy or down


class ServersLost(ServerError):
  """No server came back in time; the text names them all."""


class Fleet:
  """Knows which servers are up, and lets in none that plays something else."""

  def __init__(self, servers: Sequence[Remote], expected: wire.Identity):
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
    """Waits until all are up; raises ServersLost where one is not in time.

    Args:
      seconds: that it waits at most.
      check: called meanwhile; what it raises ends the wait.
    """
    deadline = time.monotonic() + seconds
    while not all(server.up for server in self._servers):
      check()
      self.look()
      if time.monotonic() > deadline:
        raise self.lost('in time')
      time.sleep(NAP)

  def choose(self, slot: int, here: Remote | None) -> Remote | None:
    """Returns a server that is up for a slot, None where all are down.

    Args:
      slot: belongs to server slot % n; the next ones stand in.
      here: where its episode is; it stays there while it can.
    """
    if here is not None and here.up:
      return here
    n = len(self._servers)
    ring = (self._servers[(slot + i) % n] for i in range(n))
    return next((server for server in ring if server.up), None)

  def lost(self, when: str) -> ServersLost:
    """The error that names every server and what is wrong with it."""
    each = ''.join(
      f'\n  {server.address}: {"up" if server.up else server.reason}'
      for server in self._servers
    )
    return ServersLost(
      f'environment servers did not answer {when}:{each}\nStart them again '
      '(python -m envs.serve), and resume.'
    )

  def close(self, farewell: bytes) -> None:
    """Sends a Leave to those that are up, and closes all connections."""
    calls = [s.send('Leave', farewell, 1.0) for s in self._servers if s.up]
    for call in calls:
      call.exception()  # waits; one that fails forgets in its own time
    for server in self._servers:
      server.close()

  def _wrong(self, found: wire.Identity) -> str:
    """What is wrong with a server; the first one tells the data's hash."""
    with self._lock:
      if not self.expected.data:
        expected = dataclasses.replace(self.expected, data=found.data)
        if not grpc_server.differences(found, expected):
          self.expected = expected
    return grpc_server.differences(found, self.expected)
