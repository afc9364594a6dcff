"""Clients of remote servers: as if the world were here, and nothing is lost."""

import concurrent.futures
import contextlib
import threading
import time

import pytest

from envs import inline, registry
from envs.base import (
  ResetNeeded,
  ServerError,
  Step,
  Task,
)
from envs.serving import client, fleet, protocol, server
from envs.serving.episodes import Episodes
from envs.toy import GuessEnv
from tests.serving import (
  Serving,
  check_remote,
  connect,
  play_script,
  refusal,
  who,
)


def test_remote_and_inline_are_alike():
  expected = play_script(inline.InlineClient(GuessEnv))
  with Serving() as a, Serving() as b:
    for addresses in ((a.address,), (a.address, b.address)):
      with connect(*addresses) as step_envs:
        assert play_script(step_envs) == expected
        assert step_envs.counts == client.Counts()


@pytest.mark.parametrize(('world', 'options'), [
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


def test_a_client_names_servers_that_play_something_else():
  """And does not wait until they play what it wants."""
  start, long = time.monotonic(), {'timeout': 60, 'patience': 60}
  with Serving() as a, Serving(who_it_is=who(num_words=3)) as b:
    with pytest.raises(fleet.ServersLost) as error:
      connect(a.address, b.address, **long)
    said = str(error.value)
    assert f'{a.address}: up' in said
    assert f'{b.address}: the server' in said
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
  assert f'{a.address}: up' in said
  assert 'another 1 s' in said
  assert 'python -m envs.serve --world=toy' in said


def test_a_client_refuses_servers_of_unequal_data():
  other = protocol.Identity('toy', who().options, who().version, 'other data')
  with (
    Serving() as a,
    Serving(who_it_is=other) as b,
    pytest.raises(fleet.ServersLost, match="data 'other data'"),
  ):
    connect(a.address, b.address)


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
  hello = protocol.encode(protocol.Hello())
  with slow_server() as (a, first):
    assert a.call('Hello', hello)  # not for long yet
    monkeypatch.setattr(server, '_LONG', 0.0)
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

  monkeypatch.setattr(client, '_LOOK', 0.05)
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
  episodes.play('me', {0: protocol.Episode(1, Task('train', 0))})
  for _ in range(3):  # its answer was lost twice
    found = episodes.play('me', {0: protocol.Move(2, 'red')})
    assert found[0].observation.startswith('Right. Say')
  assert episodes.play('me', {0: protocol.Move(3, 'no')})[0].done
  error = episodes.play('me', {0: protocol.Move(4, 'no')})
  assert isinstance(error[0], ResetNeeded)
  # Late, early and unknown: refused, not played.
  for session, env_id, turn in (('me', 0, 2), ('me', 0, 6), ('me', 1, 2),
                              ('you', 0, 5)):  # fmt: skip
    found = episodes.play(session, {env_id: protocol.Move(turn, 'red')})
    assert found == {env_id: None}


def test_an_episode_is_rebuilt_to_any_turn():
  episodes = Episodes(GuessEnv)
  whole = protocol.Episode(5, Task('train', 0), ('red',))
  found = episodes.play('me', {0: whole})[0]
  assert found == Episodes(GuessEnv).play('you', {0: whole})[0]
  assert found.observation.startswith('Right.')


def test_sessions_that_were_left_are_forgotten():
  start = {0: protocol.Episode(1, Task('train', 0))}
  episodes = Episodes(GuessEnv, max_sessions=2)
  for session in ('a', 'b', 'a', 'c'):
    episodes.play(session, start)
  move = {0: protocol.Move(2, 'red')}
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
    a.call(
      'Leave', protocol.encode(protocol.Leave(step_envs._session))
    )  # it forgets
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
        patch.setattr(client.GrpcClient, '_receive', interrupted)
      with contextlib.suppress(KeyboardInterrupt):
        step_envs({0: 'red'})
    return step_envs({0: 'blue'})

  def interrupt(*_):
    raise KeyboardInterrupt

  expected = script(inline.InlineClient(GuessEnv), None)
  with Serving() as a, connect(a.address) as step_envs:
    assert script(step_envs, interrupt) == expected
