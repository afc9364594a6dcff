"""Messages of remote servers: what is sent comes back; nothing else gets in."""

import random

import msgpack
import pytest

from envs.base import GameError, ServerError, Step, Task
from envs.serving import protocol

ODD = 'naïve 打开 🍎 \u2028 \ud800 \x00 "\\\r\n'
WHO = protocol.Identity('toy', '{}', 'v', 'd')
PLAY = protocol.Play(
  'me',
  WHO,
  {
    0: protocol.Move(3, ODD),
    9: protocol.Episode(1, Task('train', 4)),
    2: protocol.Episode(7, Task(ODD, -1), ('a', ODD)),
  },
)
ANSWERS = {
  0: Step(ODD, (ODD, 'b'), -0.5, True, False, True, {'part': 0.25}),
  3: None,
  7: Step(''),
}


def test_messages_come_back():
  assert protocol.decode_play(protocol.encode_play(PLAY)) == PLAY
  assert protocol.decode_answers(protocol.encode_answers(ANSWERS)) == ANSWERS
  assert protocol.decode_identity(protocol.encode_identity(WHO)) == WHO
  assert protocol.decode_leave(protocol.encode_leave('me')) == 'me'
  protocol.decode_hello(protocol.encode_hello())


def test_errors_come_back_by_name():
  sent = {0: GameError(ODD), 1: ServerError('text')}
  found = protocol.decode_answers(protocol.encode_answers(sent))
  assert [type(e) for e in found.values()] == [GameError, ServerError]
  assert [str(e) for e in found.values()] == [ODD, 'text']


def test_what_is_no_step_is_an_error_of_its_slot():
  sent = {0: Step('fine'), 1: Step('', reward=1), 2: Step('', (b'look',))}
  found = protocol.decode_answers(protocol.encode_answers(sent))
  assert found[0] == Step('fine')
  for slot in (1, 2):
    assert type(found[slot]) is ServerError
    assert 'expected a Step' in str(found[slot])


DECODERS = (
  protocol.decode_hello,
  protocol.decode_identity,
  protocol.decode_play,
  protocol.decode_leave,
  protocol.decode_answers,
)


@pytest.mark.parametrize('decode', DECODERS)
def test_fuzzed_bytes_are_refused_by_name(decode):
  """Flipped, cut, joined and random bytes: decoded rightly or a WireError."""
  rng = random.Random(0)
  good = [
    protocol.encode_play(PLAY),
    protocol.encode_answers(ANSWERS),
    protocol.encode_identity(WHO),
    protocol.encode_leave('me'),
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
    except protocol.WireError as error:
      refused += 1
      assert len(str(error)) < 1000
  assert refused > 2000


def packed(**fields):
  return msgpack.packb({'protocol': protocol.PROTOCOL, **fields})


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
      slots={i: [0, 'a'] for i in range(protocol.MAX_SLOTS + 1)},
    ),
    bytes(protocol.MAX_BYTES + 1),
  ],
)
def test_a_bad_message_is_refused(data):
  with pytest.raises(protocol.WireError):
    protocol.decode_play(data)


def test_another_protocol_is_told():
  data = msgpack.packb({'protocol': 99})
  with pytest.raises(protocol.WrongProtocol, match='99, expected 1'):
    protocol.decode_hello(data)


def test_what_msgpack_has_no_form_for_is_not_sent():
  request = {0: protocol.Episode(1, Task('train', 2**70))}
  with pytest.raises(protocol.WireError, match='64 bits'):
    protocol.encode_play(protocol.Play('me', WHO, request))


def test_too_large_a_message_is_not_sent():
  with pytest.raises(protocol.WireError, match='at most'):
    protocol.encode_answers({0: Step('x' * protocol.MAX_BYTES)})
