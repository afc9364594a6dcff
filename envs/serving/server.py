"""A world behind gRPC: `Episodes` for clients in other processes.

Methods of `hgpo.Environments`: Hello, Play and Leave, bytes of `protocol`; and
Check of the standard `grpc.health.v1.Health`, which needs no token, for probes.
A client without the token cannot make a thread wait: neither health nor a
refusal reads the message. (grpcio-health-checking reads it in one of the
server's threads, so a few clients that never send it would block the server.)
Refusals are gRPC statuses with a text:

  UNAUTHENTICATED      the token is missing or another
  INVALID_ARGUMENT     the message is not of the protocol
  FAILED_PRECONDITION  another protocol, world, option, version or data
  OUT_OF_RANGE         the answer is too large to be sent
  RESOURCE_EXHAUSTED   enough requests are in work: ask again in a moment
  UNAVAILABLE          to Hello: a request has been in work for long
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hmac
import ipaddress
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import grpc
import msgspec

from envs.base import BadOptions, TextEnv
from envs.serving import protocol
from envs.serving.episodes import Episodes

SERVICE = 'hgpo.Environments'
HEALTH = 'grpc.health.v1.Health'
# google.protobuf's bytes of HealthCheckResponse(status=SERVING).
SERVING = b'\x08\x01'

# Of both sides; a message that is too large is then refused by `protocol`.
SIZES = (
  ('grpc.max_receive_message_length', protocol.MAX_BYTES + 1024),
  ('grpc.max_send_message_length', protocol.MAX_BYTES + 1024),
)
_OPTIONS = (
  *SIZES,
  ('grpc.so_reuseport', 0),  # a port that is taken is an error
  # Clients ask every few seconds whether a silent connection is alive.
  ('grpc.http2.min_ping_interval_without_data_ms', 1000),
  ('grpc.keepalive_permit_without_calls', 1),
)

# Seconds of one request after which a server no longer says hello: a client
# that left it comes back when the request has ended.
_LONG = 10.0


@dataclasses.dataclass(frozen=True)
class Access:
  """Where a server listens, and to whom.

  Attributes:
    host: an address of this machine; beyond loopback a token is demanded.
    port: 0 takes any that is free.
    token: what clients have to know; '' asks for nothing.
    key, certificate: PEM bytes; with both, connections are encrypted (TLS).
  """

  host: str = '127.0.0.1'
  port: int = 0
  token: str = ''
  key: bytes = b''
  certificate: bytes = b''

  def __post_init__(self) -> None:
    if not self.token and not _is_loopback(self.host):
      raise BadOptions(
        f'host {self.host} is open to other machines and there is no token: '
        'give a token file, or listen on 127.0.0.1.'
      )
    if bool(self.key) != bool(self.certificate):
      raise BadOptions('TLS needs a key and its certificate: give both.')


def read_pem(path: str) -> bytes:
  """Reads a key or certificates; b'' for no path.

  Raises: BadOptions if the file holds none, as b'' would mean no TLS.
  """
  if not path:
    return b''
  data = pathlib.Path(path).read_bytes()
  if b'-----BEGIN ' not in data:
    raise BadOptions(
      f'{path} holds no PEM: expected `-----BEGIN ...` and base64 in it.'
    )
  return data


def read_token(path: str) -> str:
  """Reads a shared token; '' for no path. Raises BadOptions if it is short."""
  if not path:
    return ''
  token = pathlib.Path(path).read_text(encoding='utf-8').strip()
  if len(token) < 16 or not token.isascii() or not token.isprintable():
    raise BadOptions(
      f'{path} holds {len(token)} characters: expected a token of at least 16 '
      "plain ones; `python -c 'import secrets; print(secrets.token_hex())'` "
      'makes one.'
    )
  return token


@dataclasses.dataclass(frozen=True)
class Serving:
  """A running server: where it listens, and what ends it."""

  port: int
  stop: Callable[[], None]


def start(
  make_env: Callable[[], TextEnv],
  identity: protocol.Identity,
  access: Access,
  max_requests: int = 16,
) -> Serving:
  """Starts to serve, in threads of its own.

  Args:
    make_env: makes one environment.
    identity: what is played; clients that take it for another are refused.
    access: where, and to whom.
    max_requests: those in work at once, one playing and the others waiting;
      further ones are refused.

  Raises: BadOptions where the address cannot be taken.
  """
  if max_requests < 1:
    raise BadOptions(f'max_requests is {max_requests}: expected at least 1.')
  service = _Service(Episodes(make_env), identity, max_requests)
  # Threads to spare, so that a refusal and a health check never wait.
  threads = concurrent.futures.ThreadPoolExecutor(max_requests + 4, 'serving')
  server = grpc.server(
    threads, interceptors=[_TokenCheck(access.token)], options=_OPTIONS
  )
  server.add_generic_rpc_handlers(
    (
      grpc.method_handlers_generic_handler(
        SERVICE,
        {
          'Hello': grpc.unary_unary_rpc_method_handler(service.hello),
          'Play': grpc.unary_unary_rpc_method_handler(service.play),
          'Leave': grpc.unary_unary_rpc_method_handler(service.leave),
        },
      ),
      grpc.method_handlers_generic_handler(HEALTH, {'Check': _unread(_check)}),
    )
  )
  host = access.host.strip('[]')
  address = (
    f'[{host}]:{access.port}' if ':' in host else f'{host}:{access.port}'
  )
  try:
    if access.key:
      credentials = grpc.ssl_server_credentials(
        [(access.key, access.certificate)]
      )
      port = server.add_secure_port(address, credentials)
    else:
      port = server.add_insecure_port(address)
  except RuntimeError as error:
    raise BadOptions(
      f'cannot listen on {address}: {error} Is the port taken, or do key and '
      'certificate not belong together?'
    ) from error
  server.start()
  return Serving(port, lambda: server.stop(grace=1).wait())


class _Service:
  """The methods; each gets and returns the bytes of a message."""

  def __init__(
    self, episodes: Episodes, identity: protocol.Identity, max_requests: int
  ):
    self._episodes, self._identity = episodes, identity
    self._max = max_requests
    self._free = threading.BoundedSemaphore(max_requests)
    self._lock = threading.Lock()  # worlds need not be thread-safe
    self._since: float | None = None  # monotonic seconds; of what is in work

  def hello(self, data: bytes, context: grpc.ServicerContext) -> bytes:
    with _refusals(context):
      protocol.Hello.decode(data)
    since = self._since  # of this moment
    if since is not None and time.monotonic() - since > _LONG:
      _abort(
        context,
        grpc.StatusCode.UNAVAILABLE,
        f'a request is in work for more than {_LONG:.0f} s.',
      )
    return protocol.encode(self._identity)

  def play(self, data: bytes, context: grpc.ServicerContext) -> bytes:
    with self._counted(context):
      with _refusals(context):
        play = protocol.Play.decode(data)
      self._check_identity(play.identity, context)
      with self._lock:
        if not context.is_active():  # its client has given up meanwhile
          return b''
        self._since = time.monotonic()
        try:
          answers = self._episodes.play(play.session, play.envs)
        finally:
          self._since = None
      try:
        return protocol.encode_answers(answers)
      except protocol.WireError as error:
        _abort(context, grpc.StatusCode.OUT_OF_RANGE, str(error))

  def leave(self, data: bytes, context: grpc.ServicerContext) -> bytes:
    with self._counted(context):
      with _refusals(context):
        session = protocol.Leave.decode(data).session
      with self._lock:
        self._episodes.leave(session)
      return b''

  @contextlib.contextmanager
  def _counted(self, context: grpc.ServicerContext) -> Iterator[None]:
    """Counts requests that wait for a world; refuses one too many."""
    if not self._free.acquire(blocking=False):
      _abort(
        context,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f'{self._max} requests are in work: ask again in a moment.',
      )
    try:
      yield
    finally:
      self._free.release()

  def _check_identity(
    self, expected: protocol.Identity, context: grpc.ServicerContext
  ) -> None:
    wrong = differences(self._identity, expected)
    if wrong:
      _abort(context, grpc.StatusCode.FAILED_PRECONDITION, wrong)


def differences(server: protocol.Identity, expected: protocol.Identity) -> str:
  """Says what a server plays that its client does not expect; '' if nothing."""
  return '; '.join(
    f'the server has {name} {value!r}, its client expects '
    f'{getattr(expected, name)!r}'
    for name, value in msgspec.structs.asdict(server).items()
    if value != getattr(expected, name)
  )


def _unread(handle: Callable[..., bytes]) -> grpc.RpcMethodHandler:
  """A method that answers before its message has come.

  A method that takes one message waits for it in one of the threads, as long
  as the client likes.
  """
  return grpc.stream_unary_rpc_method_handler(handle)


def _check(unread: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
  # There is one service only, whichever the message asks for.
  return SERVING


class _TokenCheck(grpc.ServerInterceptor):
  """Refuses clients that do not send the token, before a message is read."""

  def __init__(self, token: str):
    self._expected = bearer(token) if token else ''
    self._refuse = _unread(_refuse)

  def intercept_service(self, continuation, handler_call_details):  # type: ignore[no-untyped-def]
    metadata = dict(handler_call_details.invocation_metadata or ())
    token = str(metadata.get('authorization', ''))
    is_health = handler_call_details.method.startswith(f'/{HEALTH}/')
    known = hmac.compare_digest(token.encode(), self._expected.encode())
    if self._expected and not known and not is_health:
      return self._refuse
    return continuation(handler_call_details)


def bearer(token: str) -> str:
  """The value of the metadata `authorization`."""
  return f'Bearer {token}'


def _refuse(unread: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
  _abort(
    context,
    grpc.StatusCode.UNAUTHENTICATED,
    'the token is missing or another: give the token file of the servers.',
  )


@contextlib.contextmanager
def _refusals(context: grpc.ServicerContext) -> Iterator[None]:
  """Turns what is wrong with a message into a status; the server lives on."""
  try:
    yield
  except protocol.WrongProtocol as error:
    _abort(context, grpc.StatusCode.FAILED_PRECONDITION, str(error))
  except protocol.WireError as error:
    _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))


def _abort(
  context: grpc.ServicerContext, code: grpc.StatusCode, text: str
) -> NoReturn:
  # Headers are small and of plain text; what a message held may be neither.
  plain = text.encode('ascii', 'backslashreplace').decode()
  context.abort(code, plain[:1000])
  raise AssertionError('abort() raises')


def _is_loopback(host: str) -> bool:
  try:
    return ipaddress.ip_address(host.strip('[]')).is_loopback
  except ValueError:
    return host == 'localhost'
