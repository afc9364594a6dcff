"""Environments behind processes: the same steps, and errors by name."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from envs import inline, registry, server
from envs.base import (
  EnvError,
  GameError,
  ServerError,
  Step,
  Task,
)
from envs.toy import GuessEnv
from tests.serving import ODD, play_script


class Echo:
  """Says back what it hears; can print, fail and hang on command."""

  def reset(self, task):
    if task.split == 'broken':
      raise GameError(f'broken game: {ODD}')
    return Step(ODD, (ODD, 'b'), 0.25)

  def step(self, action):
    if action == 'defect':
      raise KeyError('oops')
    return Step(action)


def talk(*lines, make_env=Echo):
  """Sends lines to a server in this process; returns its answers."""
  text = [x if isinstance(x, str) else json.dumps(x) for x in lines]
  answers = io.StringIO()
  about = {'world': 'echo', 'config': {'a': 'é'}}
  requests = io.StringIO(''.join(line + '\n' for line in text))
  server.serve(requests, answers, make_env, about)
  assert answers.getvalue().isascii()
  return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_hello_tells_world_and_config():
  (hello,) = talk({'id': 7, 'kind': 'hello', 'protocol': server.PROTOCOL})
  assert hello == {
    'id': 7, 'kind': 'hello', 'protocol': server.PROTOCOL, 'world': 'echo',
    'config': {'a': 'é'},
  }  # fmt: skip


def test_any_text_survives_the_wire():
  _, reply = talk(
    {'kind': 'step', 'slots': {'0': {'task': ['train', 0]}}},
    {'kind': 'step', 'slots': {'0': {'action': ODD}}},
  )
  assert server.unpack_answer(reply['slots']['0']) == Step(ODD)


@pytest.mark.parametrize(
  'bad',
  [
    'not json',
    '',
    '[' * 100_000,
    '[1]',
    '{}',
    {'kind': 'dance'},
    {'kind': 'hello', 'protocol': -1},
    {'kind': 'step'},
    {'kind': 'step', 'slots': [1]},
    {'kind': 'step', 'slots': {'x': {'action': 'a'}}},
    {'kind': 'step', 'slots': {'-1': {'action': 'a'}}},
    {'kind': 'step', 'slots': {'0': {'action': 1}}},
    {'kind': 'step', 'slots': {'0': {'task': ['train']}}},
    {'kind': 'step', 'slots': {'0': {'task': ['t', 0], 'action': 'a'}}},
  ],
)
def test_a_bad_message_is_told_and_the_server_lives_on(bad):
  good = {'id': 3, 'kind': 'step', 'slots': {'0': {'action': 'x'}}}
  error, reply = talk(bad, good)
  assert (error['kind'], error['error']) == ('error', 'ServerError')
  assert len(error['message']) < 600
  assert reply['id'] == 3 and reply['slots']['0']['observation'] == 'x'


def test_an_error_stays_in_its_slot():
  (reply,) = talk(
    {
      'kind': 'step',
      'slots': {
        '0': {'action': 'defect'},
        '1': {'task': ['broken', 0]},
        '2': {'action': 'fine'},
      },
    }
  )
  errors = [server.unpack_answer(reply['slots'][s]) for s in '012']
  assert [type(e) for e in errors] == [ServerError, GameError, Step]
  assert 'KeyError' in str(errors[0]) and 'defect of its world' in str(
    errors[0]
  )
  assert str(errors[1]) == f'broken game: {ODD}'


def test_close_ends_the_server():
  assert [r['kind'] for r in talk({'kind': 'close'}, 'unread')] == ['close']


def test_every_error_has_its_name_on_the_other_side():
  for name, kind in server.error_kinds().items():
    back = server.unpack_answer(server.pack_answer(kind('text')))
    assert type(back) is kind and str(back) == 'text' and name == kind.__name__
  odd = server.unpack_answer({'error': 'FromTheFuture', 'message': 'text'})
  assert type(odd) is ServerError and str(odd) == 'FromTheFuture: text'
  assert type(server.unpack_answer({'admissible': []})) is ServerError
  assert type(server.unpack_answer(None)) is ServerError


def test_inline_and_processes_are_alike():
  expected = play_script(inline.InlineClient(GuessEnv))
  assert list(expected[0]) == [0, 3, 1, 8, 5]
  for num_servers in (1, 3):
    with inline.ProcessClient('toy', {}, num_servers) as step_envs:
      assert play_script(step_envs) == expected


def test_inline_client_is_a_context_too():
  with inline.InlineClient(lambda: GuessEnv(2)) as step_envs:
    assert step_envs({4: Task('train', 0)})[4].admissible == ('green', 'red')


def test_options_reach_the_world_and_wrong_ones_are_named():
  with inline.ProcessClient('toy', {'num_words': 2}, 1) as step_envs:
    assert len(step_envs({0: Task('train', 0)})[0].admissible) == 2
  with (
    inline.ProcessClient('no such world', {}, 1) as step_envs,
    pytest.raises(registry.UnknownWorld, match='toy'),
  ):
    step_envs({0: Task('train', 0)})


def processes(step_envs):
  return [each._process for each in step_envs._servers]


def test_a_dead_server_is_told_with_its_last_words():
  step_envs = inline.ProcessClient('toy', {}, 2)
  running = processes(step_envs)
  step_envs({0: Task('train', 0), 1: Task('train', 1)})
  running[1].send_signal(signal.SIGKILL)
  with pytest.raises(ServerError, match='exit code -9.*envs.server'):
    for _ in range(3):
      step_envs({0: 'red', 1: 'red'})
  assert all(p.poll() is not None for p in running)
  with pytest.raises(ServerError, match='closed'):
    step_envs({0: 'red'})


def test_a_server_that_does_not_start_shows_why(monkeypatch):
  monkeypatch.setattr(sys, 'executable', '/bin/ls')
  with pytest.raises(ServerError, match='(?s)exit code 2.*envs.server'):
    inline.ProcessClient('toy', {}, 1)


def test_a_hanging_server_times_out():
  step_envs = inline.ProcessClient('toy', {}, 1, timeout=20)
  (running,) = processes(step_envs)
  step_envs({0: Task('train', 0)})  # the first one may take long
  step_envs._timeout = 0.2
  running.send_signal(signal.SIGSTOP)
  start = time.monotonic()
  with pytest.raises(ServerError, match='did not answer in time'):
    step_envs({0: Task('train', 0)})
  assert time.monotonic() - start < 10 and running.poll() is not None


def test_an_interrupted_call_does_not_shift_the_answers(monkeypatch):
  with inline.ProcessClient('toy', {}, 1) as step_envs:

    def interrupt(*_):
      raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
      patch.setattr(inline._Server, 'receive', interrupt)
      step_envs({0: Task('train', 0)})
    assert step_envs({0: Task('train', 5), 2: Task('train', 1)}) == (
      inline.InlineClient(GuessEnv)({0: Task('train', 5), 2: Task('train', 1)})
    )


def test_closing_ends_the_processes():
  step_envs = inline.ProcessClient('toy', {}, 2)
  running = processes(step_envs)
  step_envs.close()
  step_envs.close()
  assert [p.returncode for p in running] == [0, 0]


def test_servers_end_with_their_parent():
  code = (
    'import os\n'
    'from envs import inline\n'
    "c = inline.ProcessClient('toy', {}, 1)\n"
    'print(c._servers[0]._process.pid, flush=True)\n'
    'os._exit(1)'  # no clean-up: as after a crash
  )
  out = subprocess.run([sys.executable, '-c', code], capture_output=True)
  pid, deadline = int(out.stdout), time.monotonic() + 10
  while _alive(pid) and time.monotonic() < deadline:
    time.sleep(0.02)
  assert not _alive(pid)


def _alive(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  # Where nobody collects orphans they stay as zombies, which have ended too.
  try:
    with open(f'/proc/{pid}/stat', encoding='ascii') as file:
      return file.read().rsplit(')', 1)[1].split()[0] != 'Z'
  except OSError:
    return False


def test_what_worlds_print_does_not_break_the_protocol():
  code = (
    'import os, sys\n'
    'from envs import server, toy\n'
    'class Loud(toy.GuessEnv):\n'
    '  def reset(self, task):\n'
    "    print('printed'); os.write(1, b'raw\\n')\n"
    '    return super().reset(task)\n'
    'toy.GuessEnv = Loud\n'
    "server.main(['--world=toy'])\n"
  )
  request = {'id': 1, 'kind': 'step', 'slots': {'0': {'task': ['train', 0]}}}
  out = subprocess.run(
    [sys.executable, '-c', code],
    input=json.dumps(request) + '\n',
    capture_output=True,
    text=True,
    check=True,
  )
  assert json.loads(out.stdout)['slots']['0']['observation'] == 'Say red.'
  assert 'printed' in out.stderr and 'raw' in out.stderr


def test_errors_of_worlds_are_environment_errors():
  assert issubclass(registry.UnknownWorld, EnvError)
