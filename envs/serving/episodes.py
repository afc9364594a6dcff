"""The episodes that a remote server plays, for clients that may repeat.

An answer can be lost on its way, so a client may ask twice; an action must not
be played twice. Every request of a slot therefore has a number, its turn, and
(session, slot, turn) names one state of one episode, wherever it is played:
worlds are deterministic. So a request that was answered gets the same answer
again, one that does not follow gets None, and a message that arrives late can
cost its client a rebuild, but never play a wrong move.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping

from envs.base import EnvError, Step, Task, TextEnv
from envs.server import Slots
from envs.serving.protocol import Answer, Episode, Move


@dataclasses.dataclass
class _Session:
  slots: Slots
  last: dict[int, tuple[int, Step | EnvError]] = dataclasses.field(
    default_factory=dict
  )  # slot -> (turn, its answer)


class Episodes:
  """Environments by session and slot; the whole state of a server."""

  def __init__(
    self, make_env: Callable[[], TextEnv], max_sessions: int = 64
  ) -> None:
    """Takes what makes an environment, and the bound of clients.

    Clients that died leave sessions behind; beyond the bound, the one that was
    used least recently is dropped. Should it live, it rebuilds its episodes.
    """
    self._make_env, self._max = make_env, max_sessions
    self._sessions: collections.OrderedDict[str, _Session] = (
      collections.OrderedDict()
    )

  def play(
    self, session: str, requests: Mapping[int, Move | Episode]
  ) -> dict[int, Answer]:
    """Plays what was not played yet; None where the episode is not here."""
    if session not in self._sessions:
      self._sessions[session] = _Session(Slots(self._make_env))
    self._sessions.move_to_end(session)
    while len(self._sessions) > self._max:
      self._sessions.popitem(last=False)
    place = self._sessions[session]
    return {slot: _play(place, slot, r) for slot, r in requests.items()}

  def leave(self, session: str) -> None:
    """Drops a session, if it is there."""
    self._sessions.pop(session, None)


def _play(place: _Session, slot: int, request: Move | Episode) -> Answer:
  turn, answer = place.last.get(slot, (None, None))
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
    answer = place.slots.play({slot: move})[slot]
  assert answer is not None
  place.last[slot] = request.turn, answer
  return answer
