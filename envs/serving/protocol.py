"""What remote environment servers and their clients say: msgpack, checked.

Every message is a map with the `protocol` that its sender speaks:

  hello        {}                     who are you?
  identity     {world, options, version, data}
  play         {session, identity, slots: {slot: move or episode}}
  answers      {slots: {slot: step, error, or None}}
  leave        {session}              its environments are not needed any more

Nothing is executed, imported or unpickled. What is not of this form, or larger
than it may be, is refused with a `WireError`, on either side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import msgpack

from envs import server
from envs.base import EnvError, ServerError, Step, Task

PROTOCOL = 1
MAX_BYTES = 16 * 2**20  # of a message; 128 ALFWorld steps have about 2**18
MAX_SLOTS = 4096  # of a message
MAX_TURN = 2**62
_STEP_TYPES = {
  'observation': str,
  'admissible': list,
  'reward': float,
  'terminated': bool,
  'truncated': bool,
  'won': bool,
  'parts': dict,
}


class WireError(ServerError):
  """A message is not of this protocol; the text says where."""


class WrongProtocol(WireError):
  """Client and server speak different versions of the protocol."""


@dataclasses.dataclass(frozen=True)
class Move:
  """Play `action`; after it `turn` requests were made of this slot."""

  turn: int
  action: str


@dataclasses.dataclass(frozen=True)
class Episode:
  """Reset to `task` and play `actions`; a plain reset has none.

  The answer is that to the last action. `turn` counts as in `Move`.
  """

  turn: int
  task: Task
  actions: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Identity:
  """What a server plays; servers of equal identity answer alike.

  Attributes:
    world: its name in the registry.
    options: its options, as JSON with sorted keys.
    version: hash of the program that plays it.
    data: hash of samples of what it plays.
  """

  world: str
  options: str
  version: str
  data: str


@dataclasses.dataclass(frozen=True)
class Play:
  """Requests for slots of one client.

  Attributes:
    session: names the client; its slots are its own.
    identity: what it takes the server for.
    slots: a request for each.
  """

  session: str
  identity: Identity
  slots: Mapping[int, Move | Episode]


# None: the server does not have the episode at that turn. Send it whole.
Answer = Step | EnvError | None


def encode_hello() -> bytes:
  return _encode({})


def decode_hello(data: bytes) -> None:
  _fields(data, {})


def encode_identity(identity: Identity) -> bytes:
  return _encode(vars(identity))


def decode_identity(data: bytes) -> Identity:
  names = [field.name for field in dataclasses.fields(Identity)]
  return Identity(**_fields(data, dict.fromkeys(names, str)))


def encode_leave(session: str) -> bytes:
  return _encode({'session': session})


def decode_leave(data: bytes) -> str:
  return _fields(data, {'session': str})['session']


def encode_play(play: Play) -> bytes:
  slots = {slot: _pack_request(r) for slot, r in play.slots.items()}
  identity = list(dataclasses.astuple(play.identity))
  return _encode(
    {'session': play.session, 'identity': identity, 'slots': slots}
  )


def decode_play(data: bytes) -> Play:
  kinds = {'session': str, 'identity': list, 'slots': dict}
  found = _fields(data, kinds)
  if len(found['identity']) != 4 or not _texts(found['identity']):
    raise WireError(
      f'identity is {_short(found["identity"])}: expected 4 texts.'
    )
  return Play(
    found['session'],
    Identity(*found['identity']),
    {_slot(slot): _request(r) for slot, r in found['slots'].items()},
  )


def encode_answers(answers: Mapping[int, Answer]) -> bytes:
  return _encode({'slots': {s: _pack_answer(a) for s, a in answers.items()}})


def decode_answers(data: bytes) -> dict[int, Answer]:
  slots = _fields(data, {'slots': dict})['slots']
  return {_slot(slot): _answer(packed) for slot, packed in slots.items()}


# ---- the pieces -------------------------------------------------------------


def _encode(message: Mapping[str, Any]) -> bytes:
  # Policies write anything; half a surrogate pair has to arrive too.
  try:
    data = msgpack.packb(
      {'protocol': PROTOCOL, **message}, unicode_errors='surrogatepass'
    )
  except (TypeError, ValueError, OverflowError) as error:
    raise WireError(
      f'a message cannot be sent: {error}; expected texts, and numbers of at '
      'most 64 bits.'
    ) from error
  if len(data) > MAX_BYTES:
    raise WireError(
      f'a message of {len(data)} bytes: expected at most {MAX_BYTES}. Play '
      'fewer episodes at once, or shorten what the world says.'
    )
  return data


def _fields(data: bytes, kinds: Mapping[str, type]) -> dict[str, Any]:
  """Decodes a message that has exactly the fields `kinds`, of these types."""
  if len(data) > MAX_BYTES:
    raise WireError(f'{len(data)} bytes: expected at most {MAX_BYTES}.')
  try:
    message = msgpack.unpackb(
      data,
      strict_map_key=False,  # slots are numbers
      unicode_errors='surrogatepass',
      max_ext_len=0,
    )
  except (ValueError, TypeError, msgpack.UnpackException) as error:
    raise WireError(
      f'{len(data)} bytes are not a message: {type(error).__name__} {error}'
    ) from None
  if not isinstance(message, dict):
    raise WireError(f'{_short(message)} is not a message: expected a map.')
  protocol = message.pop('protocol', None)
  if protocol != PROTOCOL:
    raise WrongProtocol(
      f'the message is of protocol {_short(protocol)}, expected {PROTOCOL}: '
      'run the same version on both sides.'
    )
  if message.keys() != kinds.keys():
    raise WireError(
      f'the message has the fields {_short(list(message))}, expected '
      f'{list(kinds)}.'
    )
  for name, kind in kinds.items():
    if type(message[name]) is not kind:
      raise WireError(
        f'{name} is {_short(message[name])}: expected {kind.__name__}.'
      )
  if len(message.get('slots', ())) > MAX_SLOTS:
    raise WireError(
      f'{len(message["slots"])} slots: expected at most {MAX_SLOTS}.'
    )
  return message


def _slot(value: Any) -> int:
  if type(value) is not int or value < 0:
    raise WireError(f'slot {_short(value)}: expected a number from 0.')
  return value


def _pack_request(request: Move | Episode) -> list[Any]:
  if isinstance(request, Move):
    return [request.turn, request.action]
  task = request.task
  return [request.turn, task.split, task.index, list(request.actions)]


def _request(packed: Any) -> Move | Episode:
  match packed:
    case [int(turn), str(action)] if 0 <= turn < MAX_TURN:
      return Move(turn, action)
    case [int(turn), str(split), int(index), list(actions)] if (
      0 <= turn < MAX_TURN and _texts(actions)
    ):
      return Episode(turn, Task(split, index), tuple(actions))
  raise WireError(
    f'not a request for a slot: {_short(packed)}; expected [turn, action] or '
    '[turn, split, index, actions].'
  )


def _pack_answer(answer: Answer) -> dict[str, Any] | None:
  if answer is None:
    return None
  if isinstance(answer, EnvError):
    return server.pack_answer(answer)
  packed = {**vars(answer), 'parts': dict(answer.parts)}
  packed['admissible'] = list(answer.admissible)
  if not _is_step(packed):
    # What cannot be sent is a defect of the world: told, for its slot alone.
    error = ServerError(
      f'the world answered {_short(answer)}: expected a Step of plain types.'
    )
    return server.pack_answer(error)
  return packed


def _answer(packed: Any) -> Answer:
  if packed is None:
    return None
  if not isinstance(packed, dict):
    raise WireError(f'not an answer for a slot: {_short(packed)}.')
  if packed.keys() == {'error', 'message'} and _texts(packed.values()):
    return server.unpack_answer(packed)
  if not _is_step(packed):
    raise WireError(
      f'not an answer for a slot: {_short(packed)}; expected the fields of '
      'Step, or error and message.'
    )
  return Step(**{**packed, 'admissible': tuple(packed['admissible'])})


def _is_step(packed: dict[str, Any]) -> bool:
  return (
    packed.keys() == _STEP_TYPES.keys()
    and all(type(packed[name]) is t for name, t in _STEP_TYPES.items())
    and _texts(packed['admissible'])
    and _texts(packed['parts'])
    and set(map(type, packed['parts'].values())) <= {float, int}
  )


def _texts(values: Iterable[Any]) -> bool:
  return set(map(type, values)) <= {str}


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 200 else text[:200] + '...'
