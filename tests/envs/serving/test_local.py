"""Servers that a trainer starts: alike, safe, restarted, and ended with it."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from envs import inline
from envs.base import ServerError, Task
from envs.serving import client, fleet, local
from envs.toy import GuessEnv
from experiments.configs import base, toy
from hgpo_jax.train import worlds
from tests.serving import connect, play_script

START = {0: Task('train', 0), 1: Task('train', 1)}


@pytest.fixture
def servers(monkeypatch):
  """The servers that are started, as the tests cannot see them otherwise."""
  started = []

  class Recorded(local.LocalServer):
    def __init__(self, *args, **options):
      super().__init__(*args, **options)
      started.append(self)

  monkeypatch.setattr(local, 'LocalServer', Recorded)
  return started


def test_inline_and_local_servers_are_alike():
  expected = play_script(inline.InlineClient(GuessEnv))
  for count in (1, 3):
    with local.open_client('toy', {}, count) as step_envs:
      assert play_script(step_envs) == expected
      assert step_envs.counts == client.Counts()


def test_options_reach_the_world_and_wrong_ones_are_named():
  with local.open_client('toy', {'num_words': 2}, 1) as step_envs:
    assert len(step_envs({0: Task('train', 0)})[0].admissible) == 2
  for world, options, text in (
    ('no such world', {}, 'UnknownWorld: no world is called'),
    ('toy', {'num_words': -1}, 'BadOptions: .*num_words'),
    ('toy', {'words': 3}, "BadOptions: .*options are .*'num_words'"),
  ):
    with (
      pytest.raises(ServerError, match=f'(?s)exit code 1; .*{text}'),
      local.open_client(world, options, 1),
    ):
      pass
  with (
    pytest.raises(ServerError, match='at least 1'),
    local.open_client('toy', {}, 0),
  ):
    pass


def test_timeout_and_patience_hold_for_local_servers():
  c = toy.get_config().unlock()
  c.env.update(servers=1, timeout=7.0, patience=8.0)
  with worlds.open_environments(base.freeze(c)) as environments:
    assert isinstance(environments.step_envs, client.GrpcClient)
    assert environments.step_envs._timeout == 7
    assert environments.step_envs._patience == 8
    assert environments.counts() == vars(client.Counts())


def test_other_users_cannot_use_them(servers):
  with local.open_client('toy', {}, 1) as step_envs:
    (server,) = servers
    address = f'127.0.0.1:{server._port}'
    with pytest.raises(fleet.ServersLost, match='UNAUTHENTICATED'):
      connect(address)
    line = pathlib.Path(f'/proc/{server.process.pid}/cmdline').read_bytes()
    assert b'--token_file=/dev/fd/' in line
    assert server._token.encode() not in line
    assert step_envs(START)


def test_a_dead_server_is_started_again_and_nothing_is_lost(servers, capfd):
  def play(step_envs, between=lambda: None):
    steps = [step_envs(START)]
    between()
    for _ in range(2):
      said = {i: step.observation for i, step in steps[-1].items()}
      words = {i: text.split()[-1].strip('.') for i, text in said.items()}
      steps.append(step_envs(words))
    assert all(step.won for step in steps[-1].values())
    return steps

  def kill():
    for server in servers:
      server.process.send_signal(signal.SIGKILL)
      server.process.wait()

  expected = play(inline.InlineClient(lambda: GuessEnv(num_words=8)))
  with local.open_client('toy', {'num_words': 8}, 2) as step_envs:
    assert play(step_envs, kill) == expected
    assert step_envs.counts.rebuilds == 2
    said = capfd.readouterr().err
    assert said.count('Starting an environment server again') == 2
    assert 'exit code -9' in said
    # The same again is no accident: the run ends, with its last lines.
    kill()
    with pytest.raises(ServerError, match='again and again.*exit code -9'):
      step_envs(START)
  assert all(server.process.poll() is not None for server in servers)
  with pytest.raises(ServerError, match='closed'):
    step_envs(START)


def test_a_server_that_does_not_start_shows_why(monkeypatch):
  monkeypatch.setattr(sys, 'executable', '/bin/ls')
  with (
    pytest.raises(ServerError, match='(?s)envs.serve.*exit code 2; .*/bin/ls'),
    local.open_client('toy', {}, 1),
  ):
    pass


def test_a_hanging_server_is_named_and_ended(servers):
  with local.open_client('toy', {}, 1, patience=0.5) as step_envs:
    step_envs(START)
    step_envs._timeout = 0.2
    (server,) = servers
    server.process.send_signal(signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(fleet.ServersLost, match='DEADLINE_EXCEEDED'):
      step_envs(START)
  assert time.monotonic() - start < 20
  assert server.process.poll() is not None


def test_a_caller_may_stop_waiting_while_a_world_loads(servers, world_module):
  def tired():
    raise KeyboardInterrupt

  name = world_module('import time; time.sleep(60)')
  start = time.monotonic()
  with (
    pytest.raises(KeyboardInterrupt),
    local.open_client(name, {}, 1, check=tired),
  ):
    pass
  assert time.monotonic() - start < 20
  assert servers[0].process.poll() is not None


def test_closing_ends_the_processes(servers):
  with local.open_client('toy', {}, 2) as step_envs:
    step_envs(START)
    # Ctrl-C in a terminal is for the trainer alone.
    assert all(os.getsid(s.process.pid) == s.process.pid for s in servers)
  for server in servers:
    assert server.process.returncode == 0
    server.close()


@pytest.fixture
def world_module(tmp_path, monkeypatch):
  """Writes a module with a world, whose environment starts with some code."""

  def write(at_import='', at_reset=''):
    (tmp_path / 'odd_world.py').write_text(
      'import os\n'
      'from envs import toy\n'
      f'{at_import}\n'
      'class Env(toy.GuessEnv):\n'
      '  def reset(self, task):\n'
      f'    {at_reset or "pass"}\n'
      '    return super().reset(task)\n'
      'class World(toy.GuessWorld):\n'
      '  def make_env(self):\n'
      '    return Env(4)\n'
    )
    return 'odd_world:World'

  monkeypatch.setenv('PYTHONPATH', str(tmp_path))
  monkeypatch.syspath_prepend(tmp_path)
  yield write
  sys.modules.pop('odd_world', None)


def test_what_worlds_print_does_no_harm(servers, world_module):
  printing = "print('printed', os.write(1, b'raw\\n'), flush=True)"
  with local.open_client(world_module(at_reset=printing), {}, 1) as step_envs:
    assert step_envs(START)[0].observation == 'Say red.'
  end = time.monotonic() + 60  # a thread reads what is printed
  while not {'printed 4\n', 'raw\n'} <= set(servers[0]._lines):
    assert time.monotonic() < end, servers[0]._lines
    time.sleep(0.01)


TRAINER = """
import os, sys, threading
from envs.base import Task
from envs.serving import local
start = local.LocalServer._start
def start_and_print(server):
  start(server)
  print(server.process.pid, flush=True)
local.LocalServer._start = start_and_print
def die():
  os.kill(os.getpid(), 9)  # no clean-up
at_load = {'check': die} if sys.argv[2] == 'load' else {}
with local.open_client(sys.argv[1], {}, 1, **at_load) as step_envs:
  play = threading.Thread(
    target=step_envs, args=({0: Task('train', int(sys.argv[2]))},), daemon=True
  )
  play.start()
  play.join(1)
  die()
"""


@pytest.mark.parametrize('task', ['0', '7', 'load'])
def test_servers_end_with_a_killed_trainer(task, world_module):
  """Also one whose world never answers, at task 7, or still loads."""
  name = world_module(
    f'import time; time.sleep({600 * (task == "load")})',
    'task.index == 7 and time.sleep(600)',
  )
  path = os.pathsep.join([os.environ['PYTHONPATH'], os.getcwd()])
  out = subprocess.run(
    [sys.executable, '-c', TRAINER, name, task],
    capture_output=True,
    text=True,
    env={**os.environ, 'PYTHONPATH': path},
  )
  assert out.returncode == -9, out.stderr
  pid = int(out.stdout)
  deadline = time.monotonic() + 20
  while _alive(pid) and time.monotonic() < deadline:
    time.sleep(0.05)
  assert not _alive(pid)


def _alive(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  # Orphans that no process collects stay as zombies, which have ended too.
  try:
    with open(f'/proc/{pid}/stat', encoding='ascii') as file:
      return file.read().rsplit(')', 1)[1].split()[0] != 'Z'
  except OSError:
    return False
