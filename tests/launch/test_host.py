"""One host's supervisor, with stubs for trainers and real toy servers."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from experiments import logs
from experiments.supervision import RESUME
from launch import host, servers
from launch.job import LaunchError

ROOT = pathlib.Path(__file__).resolve().parents[2]

# The supervisor of a stub, with one toy server, as `launch.host` sets it up.
SUPERVISE = """
import pathlib, sys
from experiments import signals
from launch import host, servers
folder = pathlib.Path(sys.argv[1])
with (
  signals.Signals() as told,
  servers.lifeline() as (alive, held),
  servers.serving(
    'toy',
    {'num_words': 4},
    int(sys.argv[2]),
    lambda i: folder / f'env_{i}.log',
    alive,
  ) as started,
):
  servers.await_healthy(started, 30, lambda: told.stop)
  (folder / 'address').write_text(' '.join(s.address for s in started))
  command = [sys.executable, '-c', sys.argv[3], str(folder)]
  log = folder / 'trainer.log'
  sys.exit(host.supervise(command, log, started, told, (held,)))
"""
# A trainer that is preempted `times` times, and then finishes.
PREEMPTED = """
import pathlib, sys
path = pathlib.Path(sys.argv[1], 'starts')
starts = len(path.read_text()) if path.exists() else 0
path.write_text('x' * (starts + 1))
sys.exit({code} if starts < {times} else 0)
"""
# A trainer that saves when it is told to stop, or ignores it.
TOLD = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
(folder / 'pid').write_text(str(os.getpid()))
def told(*_):
  with (folder / 'told').open('a') as file:
    file.write('x')
  if {stops}:
    sys.exit(75)
signal.signal(signal.SIGTERM, told)
(folder / 'ready').touch()
time.sleep(60)
"""


def start(folder, trainer, num_servers=0):
  return subprocess.Popen(
    [sys.executable, '-c', SUPERVISE, folder, str(num_servers), trainer],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )


def wait_for(path, seconds=30):
  end = time.monotonic() + seconds
  while not path.exists():
    assert time.monotonic() < end, f'{path} does not appear'
    time.sleep(0.02)
  return path


def serves(address):
  host_name, port = address.split(':')
  with contextlib.suppress(OSError):
    socket.create_connection((host_name, int(port)), timeout=1).close()
    return True
  return False


def test_servers_end_with_whoever_needs_them(tmp_path):
  process = start(tmp_path, TOLD.format(stops=True), num_servers=2)
  wait_for(tmp_path / 'ready')
  addresses = (tmp_path / 'address').read_text().split()
  process.kill()
  process.communicate(timeout=30)
  time.sleep(0.5)
  assert all(map(serves, addresses))  # the trainer goes on by itself
  os.kill(int((tmp_path / 'pid').read_text()), signal.SIGKILL)
  end = time.monotonic() + 30
  while any(map(serves, addresses)):
    assert time.monotonic() < end, 'servers are left behind'
    time.sleep(0.1)


def test_a_preempted_trainer_is_started_again(tmp_path):
  process = start(tmp_path, PREEMPTED.format(code=RESUME, times=2))
  said, _ = process.communicate(timeout=30)
  assert process.returncode == 0
  assert said.count('the trainer starts') == 3
  assert (tmp_path / 'starts').read_text() == 'xxx'
  assert (tmp_path / 'trainer.log').read_text().count('====') == 3


@pytest.mark.parametrize(('code', 'given'), [(1, 1), (3, 3), (-9, 137)])
def test_an_error_is_given_on(tmp_path, code, given):
  stub = (
    f'import os, signal; os.kill(os.getpid(), {-code})'
    if code < 0
    else PREEMPTED.format(code=code, times=9)
  )
  process = start(tmp_path, stub)
  said, _ = process.communicate(timeout=30)
  assert process.returncode == given
  assert said.count('the trainer starts') == 1


def test_sigterm_is_passed_on_once_and_asks_for_a_requeue(tmp_path):
  process = start(tmp_path, TOLD.format(stops=True))
  wait_for(tmp_path / 'ready')
  for _ in range(3):  # Slurm tells steps and scripts
    process.send_signal(signal.SIGTERM)
  assert process.wait(30) == RESUME
  assert (tmp_path / 'told').read_text() == 'x'


def test_a_second_interrupt_kills_what_does_not_stop(tmp_path):
  process = start(tmp_path, TOLD.format(stops=False))
  wait_for(tmp_path / 'ready')
  process.send_signal(signal.SIGINT)
  wait_for(tmp_path / 'told')
  assert process.poll() is None
  process.send_signal(signal.SIGINT)
  assert process.wait(30) == RESUME


def test_a_killed_server_is_started_again_at_its_address(tmp_path):
  process = start(tmp_path, TOLD.format(stops=True), num_servers=2)
  wait_for(tmp_path / 'ready')
  first, second = (tmp_path / 'address').read_text().split()
  assert first != second
  port = first.rpartition(':')[2]
  time.sleep(servers._AGAIN_SECONDS)  # what dies younger waits for its turn
  (victim,) = [
    int(path.name)
    for path in pathlib.Path('/proc').glob('[0-9]*')
    if f'--port={port}' in command_of(path)
  ]
  os.kill(victim, signal.SIGKILL)
  log, end = tmp_path / 'env_0.log', time.monotonic() + 30
  while log.read_text().count(f'serving toy on {first}') < 2:
    assert time.monotonic() < end
    time.sleep(0.05)
  process.terminate()
  said, _ = process.communicate(timeout=30)
  assert process.returncode == RESUME
  assert f'{first} had died' in said
  assert not [p for p in pathlib.Path('/proc').glob('[0-9]*') if (
    f'--port={port}' in command_of(p))]  # fmt: skip


def command_of(path):
  with contextlib.suppress(OSError):
    return (path / 'cmdline').read_bytes().decode().split('\0')
  return []


def test_a_world_that_cannot_be_served_is_told_with_the_log(tmp_path):
  with (
    servers.lifeline() as (alive, _),
    servers.serving(
      'nowhere', {}, 1, lambda _: tmp_path / 'env.log', alive
    ) as found,
    pytest.raises(LaunchError, match='(?s)before it served.*nowhere'),
  ):
    servers.await_healthy(found, 30, lambda: False)


def test_ports_are_free_and_different():
  assert len(set(servers.free_ports(20))) == 20


def test_a_tail_shows_what_progress_bars_left(tmp_path):
  path = tmp_path / 'x.log'
  path.write_text('first\n 10%\r 20%\r100%\n\nlast\n')
  assert logs.tail(path, 2) == f'{path} ends with\n100%\nlast'


def test_the_command_line_of_a_host(tmp_path):
  """A finished run ends at once; a run has one supervisor on a machine."""

  def launch(*more):
    return subprocess.run(
      [
        sys.executable, '-m', 'launch.host',
        '--config=experiments/configs/toy.py', *more,
      ],
      cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip

  assert 'no --config.run_dir' in launch().stderr
  folder = f'--config.run_dir={tmp_path}'
  with host._claimed(f'hgpo_jax:{tmp_path.resolve()}:0'):
    said = launch(folder)
  assert said.returncode == 1
  assert 'runs on this machine already' in said.stderr
  (tmp_path / 'summary.json').write_text(json.dumps({}))
  assert launch(folder).returncode == 0
