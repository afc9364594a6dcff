"""What environment servers and their clients say: msgpack, typed and checked.

Every message is a map with the `protocol` that its sender speaks and the fields
of one record below. msgspec checks types, ranges and sizes; what is not of this
form, or larger than it may be, is refused with a `WireError`, on either side.
Nothing is executed, imported or unpickled.

msgspec's own msgpack codec accepts valid Unicode only. Policies write anything,
and half a surrogate pair has to arrive too, so msgpack reads and writes the
bytes (`surrogatepass`) and msgspec converts and checks what they hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

import msgpack
import msgspec

from envs.base import EnvError, ServerError, Step, Task

PROTOCOL = 2
MAX_BYTES = 16 * 2**20  # of a message; 128 ALFWorld steps have about 2**18
MAX_ENVS = 4096  # environments of a message

EnvId = Annotated[int, msgspec.Meta(ge=0)]
Turn = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]


class WireError(ServerError):
  """A message is not of this protocol; the text says where."""


class WrongProtocol(WireError):
  """Client and server speak different versions of the protocol."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
  """What a message holds."""

  @classmethod
  def decode(cls, data: bytes) -> Self:
    """Reads a message that holds such a record; raises WireError."""
    try:
      return msgspec.convert(_unpack(data), cls)
    except msgspec.ValidationError as error:
      raise WireError(
        f'not a message of kind {cls.__name__}: {_short(str(error))}'
      ) from None


class Piece(Record, frozen=True, array_like=True, tag=True):
  """A part of a message: a list that starts with its kind."""


class Move(Piece, frozen=True):
  """Play `action`; `turn` counts the requests of this environment so far."""

  turn: Turn
  action: str


class Episode(Piece, frozen=True):
  """Reset to `task` and play `actions`; a plain reset has none.

  The answer is that to the last action. `turn` counts as in `Move`.
  """

  turn: Turn
  task: Task
  actions: tuple[str, ...] = ()


Request = Move | Episode


class Outcome(Piece, frozen=True):
  """The fields of a `Step`."""

  observation: str
  admissible: tuple[str, ...]
  reward: float
  terminated: bool
  truncated: bool
  won: bool
  parts: dict[str, float]


class Failure(Piece, frozen=True):
  """An `EnvError` by its class name; the other side knows the same classes."""

  error: str
  message: str


class Hello(Record, frozen=True):
  """Who are you? The answer is an `Identity`."""


class Identity(Record, frozen=True):
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


class Play(Record, frozen=True):
  """Requests for environments of one client; the answer is `Answers`.

  Attributes:
    session: names the client; its environments are its own.
    identity: what it takes the server for.
    envs: a request by environment number.
  """

  session: str
  identity: Identity
  envs: Annotated[dict[EnvId, Request], msgspec.Meta(max_length=MAX_ENVS)]


# None: the server does not have the episode at that turn. Send it whole.
Answer = Step | EnvError | None


class Answers(Record, frozen=True):
  """An answer by environment number."""

  envs: Annotated[
    dict[EnvId, Outcome | Failure | None], msgspec.Meta(max_length=MAX_ENVS)
  ]


class Leave(Record, frozen=True):
  """The environments of a session are not needed any more."""

  session: str


def encode(record: Record) -> bytes:
  """Returns the message that holds a record.

  Raises: WireError where it is too large, or holds what msgpack cannot.
  """
  fields = {'protocol': PROTOCOL, **msgspec.to_builtins(record)}
  try:
    data = msgpack.packb(fields, unicode_errors='surrogatepass')
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


def encode_answers(answers: Mapping[int, Answer]) -> bytes:
  """Returns the message that holds answers by environment number."""
  return encode(Answers({i: _packed(a) for i, a in answers.items()}))


def decode_answers(data: bytes) -> dict[int, Answer]:
  """Reads answers by environment number; raises WireError."""
  answers = Answers.decode(data).envs
  return {i: _unpacked(answer) for i, answer in answers.items()}


def error_kinds() -> dict[str, type[EnvError]]:
  """Every named error that this process knows, by class name."""
  kinds, by_name = [EnvError], {}
  while kinds:
    kind = kinds.pop()
    by_name[kind.__name__] = kind
    kinds += kind.__subclasses__()
  return by_name


def _packed(answer: Answer) -> Outcome | Failure | None:
  if answer is None:
    return None
  if isinstance(answer, EnvError):
    return Failure(type(answer).__name__, str(answer))
  try:
    return msgspec.convert(answer, Outcome, from_attributes=True)
  except msgspec.ValidationError as error:
    # A defect of the world: an error of this environment alone.
    return Failure(
      ServerError.__name__,
      f'the world answered {_short(answer)}: expected a Step of plain types '
      f'({error}).',
    )


def _unpacked(answer: Outcome | Failure | None) -> Answer:
  match answer:
    case Outcome():
      return Step(*msgspec.structs.astuple(answer))
    case Failure(name, message):
      kind = error_kinds().get(name)
      return kind(message) if kind else ServerError(f'{name}: {message}')
  return None


def _unpack(data: bytes) -> dict[str, Any]:
  """Returns the fields of a message of this protocol, unchecked."""
  if len(data) > MAX_BYTES:
    raise WireError(f'{len(data)} bytes: expected at most {MAX_BYTES}.')
  try:
    message = msgpack.unpackb(
      data,
      strict_map_key=False,  # environments have numbers
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
  return message


def _short(value: object) -> str:
  text = repr(value)
  return text if len(text) <= 200 else text[:200] + '...'
