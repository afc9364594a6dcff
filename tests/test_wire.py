"""Messages of remote servers: what is sent comes back; nothing else gets in."""

import random

import msgpack
import pytest

from envs import wire
from envs.base import GameError, ServerError, Step, Task

ODD = 'naïve 打开 🍎 \u2028 \ud800 \x00 "\\\r\n'
WHO = wire.Identity('toy', '{}', 'v', 'd')
PLAY = wire.Play(
  'me',
  WHO,
  {
    0: wire.Move(3, ODD),
    9: wire.Episode(1, Task('train', 4)),
    2: wire.Episode(7, Task(ODD, -1), ('a', ODD)),
  },
)
ANSWERS = {
  0: Step(ODD, (ODD, 'b'), -0.5, True, False, True, {'part': 0.25}),
  3: None,
  7: Step(''),
}


def test_messages_come_back():
  assert wire.decode_play(wire.encode_play(PLAY)) == PLAY
  assert wire.decode_answers(wire.encode_answers(ANSWERS)) == ANSWERS
  assert wire.decode_identity(wire.encode_identity(WHO)) == WHO
  assert wire.decode_leave(wire.encode_leave('me')) == 'me'
  wire.decode_hello(wire.encode_hello())


def test_errors_come_back_by_name():
  sent = {0: GameError(ODD), 1: ServerError('text')}
  found = wire.decode_answers(wire.encode_answers(sent))
  assert [type(e) for e in found.values()] == [GameError, ServerError]
  assert [str(e) for e in found.values()] == [ODD, 'text']


def test_what_is_no_step_is_an_error_of_its_slot():
  sent = {0: Step('fine'), 1: Step('', reward=1), 2: Step('', (b'look',))}
  found = wire.decode_answers(wire.encode_answers(sent))
  assert found[0] == Step('fine')
  for slot in (1, 2):
    assert type(found[slot]) is ServerError
    assert 'expected a Step' in str(found[slot])


DECODERS = (
  wire.decode_hello,
  wire.decode_identity,
  wire.decode_play,
  wire.decode_leave,
  wire.decode_answers,
)


@pytest.mark.parametrize('decode', DECODERS)
def test_fuzzed_bytes_are_refused_by_name(decode):
  """Flipped, cut, joined and random bytes: decoded rightly or a WireError."""
  rng = random.Random(0)
  good = [
    wire.encode_play(PLAY),
    wire.encode_answers(ANSWERS),
    wire.encode_identity(WHO),
    wire.encode_leave('me'),
  ]
  refused = 0
  for _ in range(3000):
    data = bytearray(rng.choice(good))
    for _ in range(rng.randint(0, 4)):
      data[rng.randrange(len(data))] = rng.randrange(256)
    if rng.random() < 0.3:
      data = data[: rng.randrange(len(data))]
    if rng.random() < 0.1:
      data = bytearray(rng.randbytes(rng.randrange(200)))
    try:
      decode(bytes(data))
    except wire.WireError as error:
      refused += 1
      assert len(str(error)) < 1000
  assert refused > 2000


def packed(**fields):
  return msgpack.packb({'protocol': wire.PROTOCOL, **fields})


@pytest.mark.parametrize(
  'data',
  [
    b'',
    b'\xc1',
    b'\xdd\xff\xff\xff\xff',  # a list of four billion
    b'\x91' * 100_000,  # lists in lists
    b'\xc7\x01\x05x',  # a type of its own
    packed(),
    packed(session='me', identity=['a'] * 4, slots=[]),
    packed(session='me', identity=['a'] * 3, slots={}),
    packed(session='me', identity=[1] * 4, slots={}),
    packed(session='me', identity=['a'] * 4, slots={-1: [0, 'a']}),
    packed(session='me', identity=['a'] * 4, slots={'0': [0, 'a']}),
    packed(session='me', identity=['a'] * 4, slots={0: [-1, 'a']}),
    packed(session='me', identity=['a'] * 4, slots={0: [0, b'a']}),
    packed(session='me', identity=['a'] * 4, slots={0: [0, 'a', 'b', []]}),
    packed(session='me', identity=['a'] * 4, slots={0: [0, 'a', 1, [2]]}),
    packed(session='me', identity=['a'] * 4, slots={0: [0]}),
    packed(session='me', identity=['a'] * 4, slots={0: [0, 'a']}, more=1),
    packed(
      session='me',
      identity=['a'] * 4,
      slots={i: [0, 'a'] for i in range(wire.MAX_SLOTS + 1)},
    ),
    bytes(wire.MAX_BYTES + 1),
  ],
)
def test_a_bad_message_is_refused(data):
  with pytest.raises(wire.WireError):
    wire.decode_play(data)


def test_another_protocol_is_told():
  data = msgpack.packb({'protocol': 99})
  with pytest.raises(wire.WrongProtocol, match='99, expected 1'):
    wire.decode_hello(data)


def test_what_msgpack_has_no_form_for_is_not_sent():
  request = {0: wire.Episode(1, Task('train', 2**70))}
  with pytest.raises(wire.WireError, match='64 bits'):
    wire.encode_play(wire.Play('me', WHO, request))


def test_too_large_a_message_is_not_sent():
  with pytest.raises(wire.WireError, match='at most'):
    wire.encode_answers({0: Step('x' * wire.MAX_BYTES)})
