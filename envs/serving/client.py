"""Environments behind servers as one callable that loses no episode.

For every environment the client keeps its task and the actions so far. When a
server dies, hangs or cannot be reached, its episodes are rebuilt on another
one, or on the same one when it is back, by playing their actions again: worlds
are deterministic, so the rollout sees what it would have seen without the
fault.
See `envs/serving/episodes.py` for why no action is ever played twice.
"""

from __future__ import annotations

import collections
import dataclasses
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import grpc

from envs import inline
from envs.base import EnvError, ResetNeeded, ServerError, Step, Task
from envs.serving import identity, protocol, server
from envs.serving.fleet import NAP, Credentials, Fleet, Remote, describe

_LOOK = 1.0  # seconds until a caller that waits is asked whether it still does
# Every server would refuse this request.
_FINAL = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE)


@dataclasses.dataclass(frozen=True)
class Counts:
  """What happened to the servers of a client since it was made.

  Attributes:
    faults: requests that a server did not answer: it died, hung, was cut off.
    busy: requests that were refused because a server had enough to do.
    rebuilds: episodes that were played again on a server.
    replayed: their actions.
    returned: servers that came back.
    lost_s: seconds that calls took after their first fault.
  """

  faults: int = 0
  busy: int = 0
  rebuilds: int = 0
  replayed: int = 0
  returned: int = 0
  lost_s: float = 0.0


@dataclasses.dataclass
class _Episode:
  """What is played in one environment: enough to play it anywhere."""

  task: Task | None = None
  actions: list[str] = dataclasses.field(default_factory=list)
  turn: int = 0  # requests, over all episodes of the environment
  answered: int = 0  # the last turn that was answered
  answer: Step | EnvError | None = None  # to that turn
  server: Remote | None = None  # where the episode is

  def note(self, request: Task | str) -> None:
    """Writes a request down before it is sent: nothing can be lost after."""
    self.turn += 1
    if isinstance(request, str):
      self.actions.append(request)
    else:
      self.task, self.actions = request, []
      self.server = None  # a fresh start goes where the environment belongs

  def message(self, server: Remote) -> protocol.Request:
    """What `server` has to be sent next, to come to the current turn."""
    assert self.task is not None
    if not self.actions:
      return protocol.Episode(self.turn, self.task)
    # A call that was interrupted leaves a move without an answer.
    if self.server is server and self.answered == self.turn - 1:
      return protocol.Move(self.turn, self.actions[-1])
    # First up to the turn before, to check that it is the same there.
    return protocol.Episode(self.turn - 1, self.task, tuple(self.actions[:-1]))

  def check_rebuilt(self, server: Remote, answer: Step | EnvError) -> None:
    """Raises ServerError where the turn before is not as it was elsewhere."""
    before = self.answer
    alike = answer == before or (
      isinstance(answer, EnvError)
      and type(answer) is type(before)
      and str(answer) == str(before)
    )
    if self.answered == self.turn - 1 and not alike:
      raise ServerError(
        f'{server.address} plays {self.task} otherwise: after the '
        f'same actions it answers {answer!r}, expected {before!r}. Do all '
        'servers read the same data, and is the world deterministic?'
      )


def read_credentials(token_file: str, ca_file: str) -> Credentials:
  """Reads what a client shows and trusts; '' is nothing."""
  return Credentials(server.read_token(token_file), server.read_pem(ca_file))


class GrpcClient:
  """`envs.base.StepEnvs` on servers; environment i prefers server i % n."""

  def __init__(
    self,
    addresses: Sequence[str],
    world: str,
    options: Mapping[str, Any],
    credentials: Credentials = Credentials(),  # noqa: B008 (frozen)
    *,
    timeout: float = 120.0,
    patience: float = 600.0,
    check: Callable[[], None] = lambda: None,
  ):
    """Says hello to all servers; waits for them, and they have to be alike.

    Args:
      addresses: `host:port` of each server.
      world: its name in the registry.
      options: its options, as JSON values.
      credentials: token and TLS.
      timeout: seconds that a request may take before its server counts as
        hung; dead and unreachable ones are noticed sooner.
      patience: seconds that a call goes on after its first fault, until it
        gives up.
      check: called before every request, and each second while servers are
        waited for; what it raises ends the call, and the next one goes on from
        there. Threads call it at the same time.

    Raises: ServersLost where a server does not answer in time, or answers and
      plays something else; that is not waited for.
    """
    if not addresses:
      raise ServerError('no addresses: expected at least one host:port.')
    self._timeout, self._patience, self._check = timeout, patience, check
    self._session = secrets.token_hex(8)
    self._episodes: dict[int, _Episode] = collections.defaultdict(_Episode)
    self._counts, self._lock = Counts(), threading.Lock()
    self._closed = False
    self._fleet = Fleet(
      [Remote(each, credentials) for each in addresses],
      identity.identify(world, options),
    )
    try:
      self._fleet.await_all(min(timeout, patience), check)
    except BaseException:
      self.close()
      raise

  @property
  def counts(self) -> Counts:
    """What happened so far."""
    return self._counts

  def __call__(self, requests: Mapping[int, Task | str]) -> dict[int, Step]:
    """Resets or steps each environment; raises the first one's error.

    Raises:
      ServersLost: no server was there for `patience` seconds.
      ServerError: a server refuses the request, or plays another game.
    """
    if self._closed:
      raise ServerError('this client is closed; make a new GrpcClient.')
    answers: dict[int, Step | EnvError] = {}
    for env_id, request in requests.items():
      episode = self._episodes[env_id]
      if isinstance(request, str) and episode.task is None:
        answers[env_id] = ResetNeeded(
          'no episode is running: call reset(task) first.'
        )
      else:
        episode.note(request)
    first_fault = None  # monotonic seconds
    while pending := [i for i in requests if i not in answers]:
      if first_fault and time.monotonic() - first_fault > self._patience:
        raise self._fleet.lost(f'for {self._patience:.0f} s')
      self._check()
      if returned := self._fleet.look():
        self._count(returned=returned)
      arrived, calm = self._round(pending, answers)
      if not calm and first_fault is None:
        first_fault = time.monotonic()
      if not arrived:
        time.sleep(NAP)
    if first_fault:
      self._count(lost_s=time.monotonic() - first_fault)
    return inline.steps(requests, answers)

  def _round(
    self, pending: Sequence[int], answers: dict[int, Step | EnvError]
  ) -> tuple[bool, bool]:
    """Sends each pending environment its next message; adds to `answers`.

    Returns: whether any server answered, and whether all of it was answered.
    """
    shares: dict[Remote, dict[int, protocol.Request]] = collections.defaultdict(
      dict
    )
    for env_id in pending:
      episode = self._episodes[env_id]
      server = self._fleet.choose(env_id, episode.server)
      if server is not None:
        shares[server][env_id] = episode.message(server)
    sent = [(s, share, self._send(s, share)) for s, share in shares.items()]
    calm, arrived = bool(shares), False
    for server, share, call in sent:
      received = self._receive(server, call)
      if received is None:
        calm = False
        continue
      arrived = True
      for env_id, request in share.items():
        answer, episode = received.get(env_id), self._episodes[env_id]
        if answer is None:  # it was restarted: the episode is not there
          episode.server, calm = None, False
          continue
        if request.turn < episode.turn:  # rebuilt; its move comes next
          episode.check_rebuilt(server, answer)
          self._count(rebuilds=1, replayed=len(episode.actions) - 1)
        else:
          answers[env_id] = answer
        episode.answered, episode.answer = request.turn, answer
        episode.server = server
    return arrived, calm

  def _send(
    self, server: Remote, share: dict[int, protocol.Request]
  ) -> grpc.Future:
    play = protocol.Play(self._session, self._fleet.expected, share)
    return server.send('Play', protocol.encode(play), self._timeout)

  def _receive(
    self, server: Remote, call: grpc.Future
  ) -> dict[int, protocol.Answer] | None:
    """Returns a server's answers; None where it has failed or is busy."""
    try:
      return protocol.decode_answers(self._result(call))
    except grpc.RpcError as error:
      if error.code() in _FINAL:
        raise ServerError(f'{server.address}: {describe(error)}') from error
      if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        self._count(busy=1)
        return None
      reason = describe(error)
    except protocol.WireError as error:
      reason = str(error)
    server.fail(reason)
    self._count(faults=1)
    return None

  def _result(self, call: grpc.Future) -> bytes:
    while True:
      try:
        return call.result(timeout=_LOOK)
      except grpc.FutureTimeoutError:
        self._check()

  def _count(self, **added: float) -> None:
    with self._lock:
      self._counts = dataclasses.replace(
        self._counts,
        **{k: getattr(self._counts, k) + v for k, v in added.items()},
      )

  def close(self) -> None:
    """Lets the servers forget the episodes; harmless when done twice."""
    if self._closed:
      return
    self._closed = True
    self._fleet.close(protocol.Leave(self._session))

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()
