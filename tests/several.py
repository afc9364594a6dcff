"""Starts the processes of one run, here, each with some of eight devices."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
DEVICES = 8


def start(command, count, folder):
  """Starts `command` in `count` processes that know of each other.

  Args:
    command: arguments of Python; those that name the process are appended.
    count: how many.
    folder: where each leaves what it prints, in a file of its own.
  """
  folder.mkdir(parents=True, exist_ok=True)
  flags = f'--xla_force_host_platform_device_count={DEVICES // count}'
  threads = ' --xla_cpu_multi_thread_eigen=false'
  address = f'localhost:{_free_port()}'
  started = []
  for number in range(count):
    told = [
      f'--coordinator={address}',
      f'--num_processes={count}',
      f'--process_id={number}',
    ]
    with (folder / f'{number}.log').open('w') as log:
      started.append(
        subprocess.Popen(
          [sys.executable, *command, *(told if count > 1 else [])],
          cwd=ROOT,
          env={**os.environ, 'XLA_FLAGS': flags + threads},
          stdout=log,
          stderr=subprocess.STDOUT,
        )
      )
  return started


def ended(started, folder, seconds=600):
  """Waits for all; returns their exit codes. Kills those that go on."""
  end = time.monotonic() + seconds
  try:
    return [p.wait(max(end - time.monotonic(), 0.1)) for p in started]
  except subprocess.TimeoutExpired as error:
    raise AssertionError(f'still running: {said(folder)}') from error
  finally:
    for process in started:
      process.kill()


def said(folder):
  """What the processes printed, the ends of it."""
  return {p.name: p.read_text()[-3000:] for p in sorted(folder.glob('*.log'))}


def interrupt(started, number, how, until):
  """Sends a signal to one process as soon as `until` says so."""
  while not until():
    assert started[number].poll() is None, 'ended before it was interrupted'
    time.sleep(0.05)
  started[number].send_signal(how)


def kill(started, number, until):
  interrupt(started, number, signal.SIGKILL, until)


def _free_port():
  with socket.socket() as found:
    found.bind(('localhost', 0))
    return found.getsockname()[1]
