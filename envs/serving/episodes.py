"""The episodes that a server plays, for clients that may ask again.

An answer can be lost on its way, so a client may ask twice; an action must not
be played twice. Every request of an environment therefore has a number, its
turn, and (session, environment, turn) names one state of one episode, wherever
it is played: worlds are deterministic. So a request that was answered gets the
same answer again, one that does not follow gets None, and a message that
arrives late can cost its client a rebuild, but never play a wrong move.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping

from envs.base import EnvError, Step, Task, TextEnv
from envs.inline import Environments
from envs.serving.protocol import Answer, Episode, Request


@dataclasses.dataclass
class _Session:
  envs: Environments
  last: dict[int, tuple[int, Step | EnvError]] = dataclasses.field(
    default_factory=dict
  )  # environment number -> (turn, its answer)


class Episodes:
  """Environments by session and number; the whole state of a server."""

  def __init__(
    self, make_env: Callable[[], TextEnv], max_sessions: int = 64
  ) -> None:
    """Takes what makes an environment, and the bound of clients.

    Clients that died leave sessions behind; beyond the bound, the one that was
    used least recently is dropped. A client of it that is still alive rebuilds
    its episodes.
    """
    self._make_env, self._max = make_env, max_sessions
    self._sessions: collections.OrderedDict[str, _Session] = (
      collections.OrderedDict()
    )

  def play(
    self, session: str, requests: Mapping[int, Request]
  ) -> dict[int, Answer]:
    """Plays what was not played yet; None where the episode is not here."""
    if session not in self._sessions:
      self._sessions[session] = _Session(Environments(self._make_env))
    self._sessions.move_to_end(session)
    while len(self._sessions) > self._max:
      self._sessions.popitem(last=False)
    place = self._sessions[session]
    return {env_id: _play(place, env_id, r) for env_id, r in requests.items()}

  def leave(self, session: str) -> None:
    """Drops a session, if it is there."""
    self._sessions.pop(session, None)


def _play(place: _Session, env_id: int, request: Request) -> Answer:
  turn, answer = place.last.get(env_id, (None, None))
  if turn == request.turn:
    return answer
  moves: tuple[Task | str, ...]
  if isinstance(request, Episode):
    moves = (request.task, *request.actions)
  elif turn is not None and turn + 1 == request.turn:
    moves = (request.action,)
  else:
    return None
  for move in moves:
    answer = place.envs.play(env_id, move)
  assert answer is not None
  place.last[env_id] = request.turn, answer
  return answer
