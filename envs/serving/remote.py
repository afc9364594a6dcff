"""One server as its client sees it: up, or down until it says hello."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable

import grpc

from envs.serving import protocol, server

_PROBE_EVERY = 0.5  # seconds between hellos to a server that is down
_PROBE_TIMEOUT = 2.0  # seconds
# What is not a fault of the server: it has read the request and refuses it.
_OUR_FAULT = (
  grpc.StatusCode.INVALID_ARGUMENT,
  grpc.StatusCode.OUT_OF_RANGE,
)
# What answers a hello and will not serve us, however long we wait.
_REFUSALS = (
  grpc.StatusCode.UNAUTHENTICATED,
  grpc.StatusCode.FAILED_PRECONDITION,
  grpc.StatusCode.UNIMPLEMENTED,
)

_OPTIONS = (
  ('grpc.max_receive_message_length', protocol.MAX_BYTES + 1024),
  ('grpc.max_send_message_length', protocol.MAX_BYTES + 1024),
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
    self._channel.close()


def describe(error: grpc.RpcError) -> str:
  """What went wrong, in a line."""
  return f'{error.code().name}: {error.details()}'


def is_busy(error: grpc.RpcError) -> bool:
  """Whether the server has enough to do and nothing is wrong."""
  return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def is_final(error: grpc.RpcError) -> bool:
  """Whether every server would refuse this request."""
  return error.code() in _OUR_FAULT
