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
from envs.serving.fleet import NAP, Fleet
from envs.serving.remote import Credentials, Remote, describe, is_busy, is_final

_LOOK = 1.0  # seconds until a caller that waits is asked whether it still does


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
  made: int = 0  # requests, over all episodes of the environment
  answered: int = 0  # the last of them that was
  seen: Step | EnvError | None = None  # its answer
  server: Remote | None = None  # where the episode is


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
    expected = protocol.Identity(
      world,
      identity.canonical(world, options),
      identity.code_version(world),
      data='',
    )
    self._fleet = Fleet(
      [Remote(each, credentials) for each in addresses], expected
    )
    try:
      self._fleet.await_all(min(timeout, patience), check)
    except BaseException:
      self.close()
      raise

  @property
  def counts(self) -> Counts:
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
    pending: dict[int, Task | str] = {}
    for env_id, request in requests.items():
      if isinstance(request, str) and self._episodes[env_id].task is None:
        answers[env_id] = ResetNeeded(
          'no episode is running: call reset(task) first.'
        )
      else:
        pending[env_id] = request
        self._note(env_id, request)
    self._play(pending, answers)
    return inline.steps(requests, answers)

  def _note(self, env_id: int, request: Task | str) -> None:
    """Writes a request down before it is sent: nothing can be lost after."""
    episode = self._episodes[env_id]
    episode.made += 1
    if isinstance(request, str):
      episode.actions.append(request)
    else:
      episode.task, episode.actions = request, []
      episode.server = None  # a fresh start goes where the environment belongs

  def _play(
    self,
    pending: dict[int, Task | str],
    answers: dict[int, Step | EnvError],
  ) -> None:
    """Moves answers in, whatever happens to servers in between."""
    first_fault = None
    while pending:
      self._check()
      if returned := self._fleet.look():
        self._count(returned=returned)
      moved, calm = self._round(pending, answers)
      if not calm and first_fault is None:
        first_fault = time.monotonic()
      if first_fault is None:
        continue
      if pending and time.monotonic() - first_fault > self._patience:
        raise self._fleet.lost(f'for {self._patience:.0f} s')
      if not moved:
        time.sleep(NAP)
    if first_fault is not None:
      self._count(lost_s=time.monotonic() - first_fault)

  def _round(
    self,
    pending: dict[int, Task | str],
    answers: dict[int, Step | EnvError],
  ) -> tuple[bool, bool]:
    """Sends each pending environment its next message and takes what comes.

    Returns: whether anything was answered, and whether all of it was.
    """
    shares: dict[Remote, dict[int, protocol.Move | protocol.Episode]] = (
      collections.defaultdict(dict)
    )
    for env_id in pending:
      server = self._fleet.choose(env_id, self._episodes[env_id].server)
      if server is not None:
        shares[server][env_id] = self._message(env_id, server)
    sent = [(s, share, self._send(s, share)) for s, share in shares.items()]
    calm, moved = bool(shares), False
    for server, share, call in sent:
      found = self._receive(server, call)
      if found is None:
        calm = False
        continue
      moved = True
      for env_id, request in share.items():
        answer = found.get(env_id)
        calm &= answer is not None
        self._take(env_id, server, request, answer, pending, answers)
    return moved, calm

  def _message(
    self, env_id: int, server: Remote
  ) -> protocol.Move | protocol.Episode:
    episode = self._episodes[env_id]
    assert episode.task is not None
    if not episode.actions:
      return protocol.Episode(episode.made, episode.task)
    # A call that was interrupted leaves a move without an answer.
    if episode.server is server and episode.answered == episode.made - 1:
      return protocol.Move(episode.made, episode.actions[-1])
    # First as far as it had come, to see that it is the same there.
    return protocol.Episode(
      episode.made - 1, episode.task, tuple(episode.actions[:-1])
    )

  def _send(
    self, server: Remote, share: dict[int, protocol.Move | protocol.Episode]
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
      if is_final(error):
        raise ServerError(f'{server.address}: {describe(error)}') from error
      if is_busy(error):
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

  def _take(
    self,
    env_id: int,
    server: Remote,
    request: protocol.Move | protocol.Episode,
    answer: protocol.Answer,
    pending: dict[int, Task | str],
    answers: dict[int, Step | EnvError],
  ) -> None:
    """Writes down what a server answered for an environment."""
    episode = self._episodes[env_id]
    if answer is None:  # it was restarted: the episode is not there
      episode.server = None
      return
    if request.turn < episode.made:  # rebuilt; its move comes next
      self._check_rebuilt(env_id, server, answer)
      self._count(rebuilds=1, replayed=len(episode.actions) - 1)
    else:
      answers[env_id] = answer
      del pending[env_id]
    episode.answered, episode.seen = request.turn, answer
    episode.server = server

  def _check_rebuilt(
    self, env_id: int, server: Remote, answer: Step | EnvError
  ) -> None:
    episode = self._episodes[env_id]
    seen = episode.seen
    alike = answer == seen or (
      isinstance(answer, EnvError)
      and type(answer) is type(seen)
      and str(answer) == str(seen)
    )
    if episode.answered == episode.made - 1 and not alike:
      raise ServerError(
        f'{server.address} plays {episode.task} otherwise: after the '
        f'same actions it answers {answer!r}, expected {seen!r}. Do all '
        'servers read the same data, and is the world deterministic?'
      )

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
