"""Several servers that play the same, some of which may be down.

A server is up, or down until it says hello.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
import threading
import time
from collections.abc import Callable, Sequence

import grpc
import msgspec

from envs.base import ServerError
from envs.serving import protocol, server

NAP = 0.02  # seconds between two looks at servers that are busy or down
_PATIENT = 5.0  # seconds of waiting until it is reported
_PROBE_EVERY = 0.5  # seconds between hellos to a server that is down
_PROBE_TIMEOUT = 2.0  # seconds
# What answers a hello and will not serve us, however long we wait.
_REFUSALS = (
  grpc.StatusCode.UNAUTHENTICATED,
  grpc.StatusCode.FAILED_PRECONDITION,
  grpc.StatusCode.UNIMPLEMENTED,
)

_OPTIONS = (
  *server.SIZES,
  ('grpc.enable_http_proxy', 0),  # servers are near; proxies are for the web
  # A machine that vanished closes no connection: ask it when it is silent. A
  # stopped process does not answer either, so deadlines can be long.
  ('grpc.keepalive_time_ms', 10_000),
  ('grpc.keepalive_timeout_ms', 5_000),
  ('grpc.http2.max_pings_without_data', 0),  # no bound
  # A server that was restarted is found again soon.
  ('grpc.initial_reconnect_backoff_ms', 100),
  ('grpc.min_reconnect_backoff_ms', 2_000),
  ('grpc.max_reconnect_backoff_ms', 1_000),
  # Each has its own connection: one that is stuck holds up no other.
  ('grpc.use_local_subchannel_pool', 1),
)


class ServersLost(ServerError):
  """Servers are away, or not the expected ones; the text names them all."""


@dataclasses.dataclass(frozen=True)
class Credentials:
  """What a client shows and trusts.

  Attributes:
    token: the servers' shared token; '' where they ask for none.
    authority: PEM certificates that it trusts; b'' connects without TLS.
  """

  token: str = ''
  authority: bytes = b''


class Remote:
  """A server at an address; threads may share it.

  A server that fails is down: it gets no requests, but a hello every now and
  then, in the background, until it answers with the expected identity.
  """

  def __init__(self, address: str, credentials: Credentials):
    """Takes `host:port`; connects when it is first needed."""
    self.address = address
    self.up = False
    self.reason = 'it has not answered yet'  # why it is down
    self.heard = False  # whether a hello has come to any end
    self.refuses = False  # whether it is there, and the wrong one
    self._metadata = (
      (('authorization', server.bearer(credentials.token)),)
      if credentials.token
      else ()
    )
    self._channel = (
      grpc.secure_channel(
        address,
        grpc.ssl_channel_credentials(credentials.authority),
        options=_OPTIONS,
      )
      if credentials.authority
      else grpc.insecure_channel(address, options=_OPTIONS)
    )
    self._methods = {
      name: self._channel.unary_unary(f'/{server.SERVICE}/{name}')
      for name in ('Hello', 'Play', 'Leave')
    }
    self._probe: grpc.Future | None = None
    self._probe_at = 0.0  # monotonic seconds of the next one
    self._lock = threading.Lock()

  def send(self, method: str, data: bytes, timeout: float) -> grpc.Future:
    """Sends a message and returns at once; `timeout` in seconds."""
    call = self._methods[method]
    return call.future(data, timeout=timeout, metadata=self._metadata)

  def fail(self, reason: str) -> None:
    """Marks the server as down."""
    with self._lock:
      self.up, self.reason = False, reason

  def look(self, check: Callable[[protocol.Identity], str]) -> bool:
    """Probes a server that is down, without waiting for it.

    Args:
      check: says what is wrong with the server's identity; '' if nothing.

    Returns: whether it has just come up.
    """
    with self._lock:
      if self.up:
        return False
      now = time.monotonic()
      if self._probe is None:
        if now >= self._probe_at:
          self._probe_at = now + _PROBE_EVERY
          hello = protocol.encode(protocol.Hello())
          self._probe = self.send('Hello', hello, _PROBE_TIMEOUT)
        return False
      if not self._probe.done():
        return False
      probe, self._probe = self._probe, None
      try:
        self.reason = check(protocol.Identity.decode(probe.result()))
        self.refuses = bool(self.reason)
      except grpc.RpcError as error:
        self.reason = describe(error)
        self.refuses = error.code() in _REFUSALS
      except protocol.WireError as error:
        self.reason, self.refuses = str(error), True
      self.heard, self.up = True, not self.reason
      return self.up

  def close(self) -> None:
    """Closes the connection."""
    self._channel.close()


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

  def _wrong(self, identity: protocol.Identity) -> str:
    """What is wrong with a server; the first one sets the data's hash."""
    with self._lock:
      expected = self.expected
      if not expected.data:
        expected = msgspec.structs.replace(expected, data=identity.data)
      if not (wrong := server.differences(identity, expected)):
        self.expected = expected
    return wrong


def describe(error: grpc.RpcError) -> str:
  """What went wrong, in a line."""
  return f'{error.code().name}: {error.details()}'
