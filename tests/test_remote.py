"""Remote servers: what they refuse, whom they serve, that nothing is lost."""

import concurrent.futures
import contextlib
import random
import socket
import subprocess
import threading
import time

import grpc
import pytest

from envs import (
  checker,
  client,
  fleet,
  grpc_client,
  grpc_server,
  identity,
  registry,
  remote,
  serve,
  wire,
)
from envs.base import (
  BadOptions,
  ResetNeeded,
  ServerError,
  Step,
  Task,
  UnknownTask,
)
from envs.episodes import Episodes
from envs.toy import GuessEnv
from test_server import play_script

TOKEN = 'a token of twenty-odd letters'
LOOPBACK = grpc_server.Access()


def who(world='toy', **options):
  made = registry.make_world(world, options)
  return wire.Identity(
    world,
    identity.canonical(world, options),
    identity.code_version(world),
    identity.data_hash(made),
  )


class Serving:
  """A server in this process, and a raw channel to it."""

  def __init__(
    self, make_env=GuessEnv, who_it_is=None, access=LOOPBACK, **more
  ):
    self.identity = who_it_is or who()
    self._running = grpc_server.start(make_env, self.identity, access, **more)
    self.address = f'127.0.0.1:{self._running.port}'
    self.channel = grpc.insecure_channel(self.address)

  def call(self, method, data, service=grpc_server.SERVICE, **more):
    call = self.channel.unary_unary(f'/{service}/{method}')
    return call(data, timeout=10, **more)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.channel.close()
    self._running.stop()


def connect(*addresses, world='toy', options=None, **more):
  more = {'timeout': 10, 'patience': 10, **more}
  return grpc_client.GrpcClient(addresses, world, options or {}, **more)


def refusal(serving, method, data, **more):
  """The status of a call that is refused; the server has to live on."""
  with pytest.raises(grpc.RpcError) as error:
    serving.call(method, data, **more)
  health = serving.call('Check', b'', service=grpc_server.HEALTH)
  assert health == grpc_server.SERVING
  return error.value.code().name, error.value.details()


def test_remote_and_inline_are_alike():
  expected = play_script(client.InlineClient(GuessEnv))
  with Serving() as a, Serving() as b:
    for addresses in ((a.address,), (a.address, b.address)):
      with connect(*addresses) as step_envs:
        assert play_script(step_envs) == expected
        assert step_envs.counts == grpc_client.Counts()


class RemoteEnv:
  """A slot of a client as an environment, for the contract checker."""

  def __init__(self, step_envs, slot):
    self._step_envs, self._slot = step_envs, slot

  def reset(self, task):
    return self._step_envs({self._slot: task})[self._slot]

  def step(self, action):
    return self._step_envs({self._slot: action})[self._slot]


def check_remote(step_envs, tasks, **more):
  """`check_env` behind a client; every environment is a slot of its own."""
  slots = iter(range(10**6))
  return checker.check_env(
    lambda: RemoteEnv(step_envs, next(slots)), tasks, **more
  )


@pytest.mark.parametrize('world, options', [
  ('toy', {}), ('alfworld', {'family': 'easy', 'max_turns': 9})
])  # fmt: skip
def test_a_remote_server_keeps_the_contract(world, options):
  made = registry.make_world(world, options)
  tasks = [Task('train', i) for i in range(5)]
  with (
    Serving(made.make_env, who(world, **options)) as a,
    connect(a.address, world=world, options=options) as step_envs,
  ):
    assert check_remote(step_envs, tasks).episodes == 5


# ---- refusals ---------------------------------------------------------------


def test_bad_bytes_are_refused_and_the_server_lives_on():
  good = wire.encode_play(
    wire.Play('me', who(), {0: wire.Episode(1, Task('train', 0))})
  )
  with Serving() as a:
    for data in (b'', b'\xc1', good[:-3], good + b'x', b'\x91' * 10_000):
      for method in ('Hello', 'Play', 'Leave'):
        code, text = refusal(a, method, data)
        assert code == 'INVALID_ARGUMENT' and text
    code, _ = refusal(a, 'Play', bytes(wire.MAX_BYTES + 2048))
    assert code == 'RESOURCE_EXHAUSTED'  # gRPC's own: it was never read
    code, _ = refusal(a, 'Dance', b'')
    assert code == 'UNIMPLEMENTED'
    found = wire.decode_answers(a.call('Play', good))
    assert found[0].observation == 'Say red.'


def test_a_server_outlives_fuzzed_requests():
  rng = random.Random(0)
  good = wire.encode_play(
    wire.Play('me', who(), {0: wire.Episode(1, Task('train', 0), ('red',))})
  )
  codes = set()
  with Serving() as a:
    for _ in range(300):
      data = bytearray(good[: rng.randint(0, len(good))] or b'x')
      data[rng.randrange(len(data))] = rng.randrange(256)
      try:
        a.call(rng.choice(('Hello', 'Play', 'Leave')), bytes(data))
      except grpc.RpcError as error:
        codes.add(error.code().name)
    assert codes <= {'INVALID_ARGUMENT', 'FAILED_PRECONDITION'}
    assert wire.decode_answers(a.call('Play', good))[0] is not None


def test_other_protocols_and_worlds_are_refused(monkeypatch):
  slots = {0: wire.Episode(1, Task('train', 0))}
  with Serving() as a:
    other = wire.encode_play(wire.Play('me', who(num_words=3), slots))
    code, text = refusal(a, 'Play', other)
    assert code == 'FAILED_PRECONDITION'
    assert '{"num_words": 4}' in text and '{"num_words": 3}' in text
    with monkeypatch.context() as patch:
      patch.setattr(wire, 'PROTOCOL', 2)
      hello = wire.encode_hello()
    code, text = refusal(a, 'Hello', hello)
    assert code == 'FAILED_PRECONDITION' and 'protocol 2, expected 1' in text


def test_a_client_names_servers_that_play_something_else():
  """And does not wait until they play what it wants."""
  start, long = time.monotonic(), {'timeout': 60, 'patience': 60}
  with Serving() as a, Serving(who_it_is=who(num_words=3)) as b:
    with pytest.raises(fleet.ServersLost) as error:
      connect(a.address, b.address, **long)
    said = str(error.value)
    assert f'{a.address}: up' in said and f'{b.address}: the server' in said
    assert 'options' in said
    assert """--world=toy --options='{"num_words": 4}'""" in said
    with pytest.raises(fleet.ServersLost, match="world 'toy'.*alfworld") as e:
      connect(a.address, world='alfworld', **long)
    assert "expects ''" not in str(e.value)  # data were never compared
    with pytest.raises(fleet.ServersLost) as error:  # of two that are wrong
      connect(b.address, '127.0.0.1:1', **long)
    assert '127.0.0.1:1: UNAVAILABLE' in str(error.value)
  assert time.monotonic() - start < 30


def test_a_long_wait_is_told_once(monkeypatch, capsys):
  monkeypatch.setattr(fleet, '_PATIENT', 0.5)
  with Serving() as a, pytest.raises(fleet.ServersLost, match='in time'):
    connect(a.address, '127.0.0.1:1', patience=1.5)
  said = capsys.readouterr().err
  assert said.count('Waiting until') == said.count('127.0.0.1:1: UNAVAIL') == 1
  assert f'{a.address}: up' in said and 'another 1 s' in said
  assert 'python -m envs.serve --world=toy' in said


def test_a_client_refuses_servers_of_unequal_data():
  other = wire.Identity('toy', who().options, who().version, 'other data')
  with (
    Serving() as a,
    Serving(who_it_is=other) as b,
    pytest.raises(fleet.ServersLost, match="data 'other data'"),
  ):
    connect(a.address, b.address)


def test_a_token_is_demanded_and_checked():
  with Serving(access=grpc_server.Access(token=TOKEN)) as a:
    for given in ({}, {'metadata': (('authorization', 'Bearer no'),)}):
      code, text = refusal(a, 'Hello', wire.encode_hello(), **given)
      assert code == 'UNAUTHENTICATED' and 'token' in text
    with pytest.raises(fleet.ServersLost, match='UNAUTHENTICATED'):
      connect(a.address, timeout=60, patience=60)
    with connect(a.address, credentials=remote.Credentials(TOKEN)) as envs:
      assert envs({0: Task('train', 0)})[0].observation == 'Say red.'


def test_strangers_hold_no_thread():
  """Calls whose message never comes; they may well outnumber the threads."""
  never, access = threading.Event(), grpc_server.Access(token=TOKEN)

  def stalled():
    never.wait(30)
    yield b''

  with Serving(access=access, max_requests=1) as a:
    calls = [
      a.channel.stream_unary(f'/{service}/{method}').future(stalled())
      for service, method in [
        (grpc_server.SERVICE, 'Play'),
        (grpc_server.HEALTH, 'Check'),
      ]
      * 10
    ]
    with connect(a.address, credentials=remote.Credentials(TOKEN)) as envs:
      assert envs({0: Task('train', 0)})[0].observation == 'Say red.'
    assert a.call('Check', b'', service=grpc_server.HEALTH)
    never.set()
    assert all(call.exception(10) for call in calls[::2])


def test_only_loopback_goes_without_a_token():
  for host in ('127.0.0.1', '::1', '[::1]', 'localhost'):
    grpc_server.Access(host)
  for host in ('0.0.0.0', '::', '10.1.2.3', 'a.name', ''):
    with pytest.raises(BadOptions, match='no token'):
      grpc_server.Access(host)
    grpc_server.Access(host, token=TOKEN)
  with pytest.raises(BadOptions, match='both'):
    grpc_server.Access(key=b'key')


def test_tokens_are_read_from_files(tmp_path):
  path = tmp_path / 'token'
  assert grpc_server.read_token('') == ''
  path.write_text(TOKEN + '\n')
  assert grpc_server.read_token(str(path)) == TOKEN
  for bad in ('', 'short', 'naïve, but long enough', 'two\nlines of a token'):
    path.write_text(bad)
    with pytest.raises(BadOptions, match='at least 16'):
      grpc_server.read_token(str(path))


def test_a_certificate_that_is_none_does_not_turn_tls_off(tmp_path):
  path = tmp_path / 'ca.pem'
  path.write_text('')
  with pytest.raises(BadOptions, match='holds no PEM'):
    grpc_client.read_credentials('', str(path))
  with pytest.raises(SystemExit, match='holds no PEM'):
    serve.main(['--world=toy', f'--key={path}', f'--certificate={path}'])
  assert grpc_client.read_credentials('', '') == remote.Credentials()


def test_a_taken_port_is_told():
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(BadOptions, match='taken'):
      Serving(access=grpc_server.Access(port=port))
    with pytest.raises(SystemExit, match='taken'):
      serve.main(['--world=toy', f'--port={port}'])
  with pytest.raises(SystemExit, match='max_requests is 0'):
    serve.main(['--world=toy', '--max_requests=0'])


def test_servers_listen_on_ipv6_too():
  if not socket.has_ipv6:
    pytest.skip('there is no IPv6 here')
  try:
    socket.create_server(('::1', 0), family=socket.AF_INET6).close()
  except OSError:
    pytest.skip('there is no IPv6 here')
  running = grpc_server.start(GuessEnv, who(), grpc_server.Access('::1'))
  with connect(f'[::1]:{running.port}') as step_envs:
    assert step_envs({0: Task('train', 0)})[0].observation == 'Say red.'
  running.stop()


def test_tls_encrypts_and_strangers_are_not_trusted(tmp_path):
  key, certificate = tmp_path / 'key', tmp_path / 'certificate'
  try:
    subprocess.run(
      ['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days=2',
       '-subj=/CN=localhost', '-addext=subjectAltName=IP:127.0.0.1',
       '-keyout', key, '-out', certificate],
      check=True, capture_output=True,
    )  # fmt: skip
  except FileNotFoundError:
    pytest.skip('openssl makes the certificate, and is not installed')
  access = grpc_server.Access(
    key=key.read_bytes(), certificate=certificate.read_bytes()
  )
  running = grpc_server.start(GuessEnv, who(), access)
  address = f'127.0.0.1:{running.port}'
  trusting = remote.Credentials(authority=certificate.read_bytes())
  try:
    with connect(address, credentials=trusting) as step_envs:
      assert step_envs({0: Task('train', 0)})[0].observation == 'Say red.'
    with pytest.raises(fleet.ServersLost, match='UNAVAILABLE'):
      connect(address, patience=1)  # without TLS
  finally:
    running.stop()


# ---- work -------------------------------------------------------------------


class Slow(GuessEnv):
  """Plays only while the test lets it."""

  entered, gate = threading.Event(), threading.Event()

  def reset(self, task):
    self.entered.set()
    self.gate.wait(30)
    return super().reset(task)


@contextlib.contextmanager
def slow_server(**more):
  """A server that is at work until its gate is opened, and that work."""
  Slow.entered.clear()
  Slow.gate.clear()
  with (
    Serving(Slow, **more) as a,
    connect(a.address, timeout=30, patience=30) as one,
    concurrent.futures.ThreadPoolExecutor() as threads,
  ):
    first = threads.submit(one, {0: Task('train', 0)})
    try:
      assert Slow.entered.wait(30)
      yield a, first
    finally:
      Slow.gate.set()


def test_too_much_work_is_refused_and_tried_again():
  with (
    slow_server(max_requests=1) as (a, _),
    connect(a.address, timeout=30, patience=30) as two,
    concurrent.futures.ThreadPoolExecutor() as threads,
  ):
    found = threads.submit(two, {0: Task('train', 1)})
    while not two.counts.busy:
      assert not found.done()
      time.sleep(0.01)
    Slow.gate.set()
    assert found.result(30)[0].observation == 'Say red.'
    assert two.counts.faults == 0


def test_a_server_that_is_stuck_says_no_hello(monkeypatch):
  """It would be given work again and again, and every time be waited for."""
  hello = wire.encode_hello()
  with slow_server() as (a, first):
    assert a.call('Hello', hello)  # not for long yet
    monkeypatch.setattr(grpc_server, '_LONG', 0.0)
    assert refusal(a, 'Hello', hello)[0] == 'UNAVAILABLE'
    Slow.gate.set()
    first.result(30)
    assert a.call('Hello', hello)


def test_a_caller_may_stop_waiting(monkeypatch):
  """For a server that plays, and for servers that are gone."""

  tired = threading.Event()

  def check():
    if tired.is_set():
      raise KeyboardInterrupt

  monkeypatch.setattr(grpc_client, '_LOOK', 0.05)
  with (
    slow_server() as (a, first),
    connect(a.address, timeout=30, patience=30, check=check) as two,
  ):
    start = time.monotonic()
    threading.Timer(0.2, tired.set).start()
    with pytest.raises(KeyboardInterrupt):
      two({0: Task('train', 1)})
    assert time.monotonic() - start < 20
    tired.clear()
    Slow.gate.set()
    assert two({0: Task('train', 2)})[0].observation.startswith('Say')
    first.result(30)
    a._running.stop()
    threading.Timer(0.2, tired.set).start()
    with pytest.raises(KeyboardInterrupt):
      two({0: Task('train', 3)})
    assert time.monotonic() - start < 20


def test_a_client_may_stop_waiting_before_servers_are_there():
  looks = []

  def tired():
    looks.append(time.monotonic())
    if len(looks) == 3:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    connect('127.0.0.1:1', timeout=30, patience=30, check=tired)
  assert looks[-1] - looks[0] < 20


def test_an_action_is_played_once_however_often_it_is_asked():
  episodes = Episodes(GuessEnv)
  episodes.play('me', {0: wire.Episode(1, Task('train', 0))})
  for _ in range(3):  # its answer was lost twice
    found = episodes.play('me', {0: wire.Move(2, 'red')})
    assert found[0].observation.startswith('Right. Say')
  assert episodes.play('me', {0: wire.Move(3, 'no')})[0].done
  error = episodes.play('me', {0: wire.Move(4, 'no')})
  assert isinstance(error[0], ResetNeeded)
  # Late, early and unknown: told, not played.
  for session, slot, turn in (('me', 0, 2), ('me', 0, 6), ('me', 1, 2),
                              ('you', 0, 5)):  # fmt: skip
    found = episodes.play(session, {slot: wire.Move(turn, 'red')})
    assert found == {slot: None}


def test_an_episode_is_rebuilt_to_any_turn():
  episodes = Episodes(GuessEnv)
  whole = wire.Episode(5, Task('train', 0), ('red',))
  found = episodes.play('me', {0: whole})[0]
  assert found == Episodes(GuessEnv).play('you', {0: whole})[0]
  assert found.observation.startswith('Right.')


def test_sessions_that_were_left_are_forgotten():
  start = {0: wire.Episode(1, Task('train', 0))}
  episodes = Episodes(GuessEnv, max_sessions=2)
  for session in ('a', 'b', 'a', 'c'):
    episodes.play(session, start)
  move = {0: wire.Move(2, 'red')}
  assert episodes.play('a', move)[0] is not None
  assert episodes.play('b', move)[0] is None
  episodes.leave('a')
  episodes.leave('unknown')
  assert episodes.play('a', move)[0] is None


class Moody(GuessEnv):
  """Not deterministic: answers otherwise when it is played again."""

  made = 0

  def reset(self, task):
    Moody.made += 1
    return Step(f'game {Moody.made}')

  def step(self, action):
    return Step('ok')


def test_a_rebuilt_episode_that_differs_stops_the_client():
  with Serving(Moody) as a, connect(a.address) as step_envs:
    step_envs({0: Task('train', 0)})
    a.call('Leave', wire.encode_leave(step_envs._session))  # it forgets
    with pytest.raises(ServerError, match='deterministic'):
      step_envs({0: 'look'})


def test_a_closed_client_says_so():
  with Serving() as a:
    step_envs = connect(a.address)
    step_envs.close()
    step_envs.close()
    with pytest.raises(ServerError, match='closed'):
      step_envs({0: Task('train', 0)})
  with pytest.raises(ServerError, match='no addresses'):
    connect()


def test_an_interrupted_move_is_not_mistaken_for_the_next(monkeypatch):
  def script(step_envs, interrupted):
    step_envs({0: Task('train', 3)})
    with monkeypatch.context() as patch:
      if interrupted:
        patch.setattr(grpc_client.GrpcClient, '_receive', interrupted)
      with contextlib.suppress(KeyboardInterrupt):
        step_envs({0: 'red'})
    return step_envs({0: 'blue'})

  def interrupt(*_):
    raise KeyboardInterrupt

  expected = script(client.InlineClient(GuessEnv), None)
  with Serving() as a, connect(a.address) as step_envs:
    assert script(step_envs, interrupt) == expected


def test_a_world_without_any_task_is_not_served(monkeypatch):
  def no_tasks(split):
    raise UnknownTask('no games here')

  made = registry.make_world('toy', {'num_words': 4})
  monkeypatch.setattr(made, 'num_tasks', no_tasks)
  with pytest.raises(UnknownTask, match='no games here'):
    identity.data_hash(made)
