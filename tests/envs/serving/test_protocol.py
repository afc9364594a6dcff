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
  assert protocol.Play.decode(protocol.encode(PLAY)) == PLAY
  assert protocol.decode_answers(protocol.encode_answers(ANSWERS)) == ANSWERS
  assert protocol.Identity.decode(protocol.encode(WHO)) == WHO
  for record in (protocol.Leave('me'), protocol.Hello()):
    assert type(record).decode(protocol.encode(record)) == record


def test_errors_come_back_by_name():
  sent = {0: GameError(ODD), 1: ServerError('text')}
  found = protocol.decode_answers(protocol.encode_answers(sent))
  assert [type(e) for e in found.values()] == [GameError, ServerError]
  assert [str(e) for e in found.values()] == [ODD, 'text']


def test_every_error_has_its_name_on_the_other_side():
  kinds = protocol.error_kinds()
  sent = {i: kind('text') for i, kind in enumerate(kinds.values())}
  back = protocol.decode_answers(protocol.encode_answers(sent))
  for i, (name, kind) in enumerate(kinds.items()):
    assert type(back[i]) is kind
    assert str(back[i]) == 'text'
    assert name == kind.__name__
  odd = protocol.Answers({0: protocol.Failure('FromTheFuture', 'text')})
  back = protocol.decode_answers(protocol.encode(odd))[0]
  assert type(back) is ServerError
  assert str(back) == 'FromTheFuture: text'


def test_what_is_no_step_is_an_error_of_its_environment():
  sent = {0: Step('fine'), 1: Step('', reward='1'), 2: Step('', (b'look',))}
  found = protocol.decode_answers(protocol.encode_answers(sent))
  assert found[0] == Step('fine')
  for env_id in (1, 2):
    assert type(found[env_id]) is ServerError
    assert 'expected a Step' in str(found[env_id])


DECODERS = (
  protocol.Hello.decode,
  protocol.Identity.decode,
  protocol.Play.decode,
  protocol.Leave.decode,
  protocol.decode_answers,
)


@pytest.mark.parametrize('decode', DECODERS)
def test_fuzzed_bytes_are_refused_by_name(decode):
  """Flipped, cut, joined and random bytes: decoded rightly or a WireError."""
  rng = random.Random(0)
  good = [
    protocol.encode(PLAY),
    protocol.encode_answers(ANSWERS),
    protocol.encode(WHO),
    protocol.encode(protocol.Leave('me')),
  ]
  refusals = []
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
      refusals.append(str(error))
  assert len(refusals) > 2000
  assert max(map(len, refusals)) < 1000


IDENTITY = {'world': 'a', 'options': 'b', 'version': 'c', 'data': 'd'}


def packed(**fields):
  return msgpack.packb({'protocol': protocol.PROTOCOL, **fields})


def play(**fields):
  fields = {'identity': IDENTITY, 'envs': {}, **fields}
  return packed(session='me', **fields)


def test_the_smallest_play_is_a_message():
  assert protocol.Play.decode(play()).envs == {}


@pytest.mark.parametrize(
  'data',
  [
    b'',
    b'\xc1',
    b'\xdd\xff\xff\xff\xff',  # a list of four billion
    b'\x91' * 100_000,  # lists in lists
    b'\xc7\x01\x05x',  # a type of its own
    packed(),
    play(envs=[]),
    play(identity={**IDENTITY, 'data': 1}),
    play(identity={'world': 'a'}),
    play(identity=['a'] * 4),
    play(envs={-1: ['Move', 0, 'a']}),
    play(envs={'0': ['Move', 0, 'a']}),
    play(envs={0: ['Move', -1, 'a']}),
    play(envs={0: ['Move', 2**62, 'a']}),
    play(envs={0: ['Move', True, 'a']}),
    play(envs={0: ['Move', 0, b'a']}),
    play(envs={0: ['Move', 0]}),
    play(envs={0: ['Move', 0, 'a', 'b']}),
    play(envs={0: ['Dance', 0, 'a']}),
    play(envs={0: [0, 'a']}),
    play(envs={0: ['Episode', 0, ['train', 1], []]}),
    play(envs={0: ['Episode', 0, {'split': 'train', 'index': 1}, [2]]}),
    play(envs={0: None}),
    play(more=1),
    play(envs={i: ['Move', 0, 'a'] for i in range(protocol.MAX_ENVS + 1)}),
    bytes(protocol.MAX_BYTES + 1),
  ],
)
def test_a_bad_message_is_refused(data):
  with pytest.raises(protocol.WireError):
    protocol.Play.decode(data)


def test_another_protocol_is_told():
  data = msgpack.packb({'protocol': 99})
  with pytest.raises(protocol.WrongProtocol, match='99, expected 2'):
    protocol.Hello.decode(data)


def test_what_msgpack_has_no_form_for_is_not_sent():
  request = {0: protocol.Episode(1, Task('train', 2**70))}
  with pytest.raises(protocol.WireError, match='64 bits'):
    protocol.encode(protocol.Play('me', WHO, request))


def test_too_large_a_message_is_not_sent():
  with pytest.raises(protocol.WireError, match='at most'):
    protocol.encode_answers({0: Step('x' * protocol.MAX_BYTES)})
