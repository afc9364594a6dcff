"""Jobs as local processes: with stubs for hosts, and the real thing once."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from experiments import signals, supervision
from launch import local
from launch.job import Job

ROOT = pathlib.Path(__file__).resolve().parents[2]

# A host that notes when it starts and ends, and stops gently when told to. It
# ends after `seconds`, and not before so many have started `together`.
STUB = """
import json, pathlib, signal, sys, time
told = dict(x.removeprefix('--').split('=', 1) for x in sys.argv[1:])
folder = pathlib.Path(told['config.run_dir'])
def note(what):
  with (folder.parent / 'events').open('a') as file:
    file.write(json.dumps([what, folder.name, told]) + '\\n')
def stop(*_):
  note('told')
  sys.exit(75)
signal.signal(signal.SIGTERM, stop)
note('start')
end = time.monotonic() + 30
while time.monotonic() < end and (folder.parent / 'events').read_text().count(
  '["start"') < int(told.get('config.together', 1)):
  time.sleep(0.01)
time.sleep(float(told['config.seconds']))
note('end')
sys.exit(int(told.get('config.code', 0)))
"""
HOST = (sys.executable, '-c', STUB)


def job(tmp_path, name, seconds=0.3, hosts=1, **more):
  overrides = {'seconds': seconds, **more}
  return Job(name, 'c.py', str(tmp_path / name), overrides, hosts)


def events(tmp_path):
  path = tmp_path / 'events'
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_commands_of_one_process_and_of_three():
  one = Job('x', 'c.py:v', 'runs/x', {'seed': 1}, env={'A': 'b c'})
  assert local.commands(one, 7, ['host']) == [
    ['env', 'A=b c', 'host', '--config=c.py:v', '--config.seed=1',
     '--config.run_dir=runs/x', '--env_servers=0'],
  ]  # fmt: skip
  three = local.commands(Job('x', 'c.py', 'r', hosts=3), 7, ['host'])
  assert [command[-3:] for command in three] == [
    ['--coordinator=127.0.0.1:7', '--num_processes=3', f'--process_id={i}']
    for i in range(3)
  ]


def test_so_many_jobs_run_at_once_and_failures_stop_no_others(tmp_path):
  jobs = [
    job(tmp_path, 'a', together=2, code=3),
    *(job(tmp_path, name, together=2) for name in 'bcd'),
  ]
  said = []
  assert local.play(jobs, 2, HOST, said.append) == jobs[:1]
  order = [(what, name) for what, name, _ in events(tmp_path)]
  assert sorted(name for what, name in order if what == 'end') == [*'abcd']
  running = peak = 0
  for what, _ in order:
    running += 1 if what == 'start' else -1
    peak = max(peak, running)
  assert peak == 2
  assert any('a: failed with 3; ' in line for line in said)
  assert any('b: finished' in line for line in said)


def test_where_one_process_fails_the_others_are_told(tmp_path):
  stub = STUB.replace("note('start')", "note('start')\nif told['process_id'] "
                      "== '1': sys.exit(3)")  # fmt: skip
  said = []
  jobs = [job(tmp_path, 'a', seconds=60, hosts=3)]
  found = local.play(jobs, 1, (sys.executable, '-c', stub), said.append)
  assert found == jobs
  assert any('failed with 3; ' in line and 'host_1' in line for line in said)
  assert len({told['coordinator'] for _, _, told in events(tmp_path)}) == 1


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_stops_its_jobs_gently(tmp_path, number):
  code = (
    'import pathlib, sys\n'
    f'sys.path.insert(0, {str(ROOT)!r})\n'
    'from launch import local\n'
    'from tests.launch import test_local as t\n'
    'folder = pathlib.Path(sys.argv[1])\n'
    "local.play([t.job(folder, n, 60) for n in 'abc'], 2, t.HOST)\n"
  )
  process = subprocess.Popen([sys.executable, '-c', code, tmp_path], cwd=ROOT)
  end = time.monotonic() + 30
  while len(events(tmp_path)) < 2:
    assert time.monotonic() < end
    time.sleep(0.05)
  process.send_signal(number)
  assert process.wait(30) != 0
  order = [(what, name) for what, name, _ in events(tmp_path)]
  assert sorted(order) == [
    ('start', 'a'), ('start', 'b'), ('told', 'a'), ('told', 'b'),
  ]  # fmt: skip


def test_a_host_is_told_to_stop_before_it_is_killed():
  """Also where the second Ctrl-C has come before anybody was told."""
  told = []

  class Stubborn(supervision._Running):
    codes = property(lambda _: [0 if len(told) > 1 else None])
    tell = staticmethod(told.append)

  hurried = signals.Signals()
  hurried.stop = hurried.kill = True
  work = supervision.Work('a', list, ())
  supervision._stop([Stubborn(work, [], 0.0)], hurried, print)
  assert told == [signal.SIGTERM, signal.SIGINT]


# ---- the real thing ----

METHODS = """
gigpo = { algo.estimator = 'gigpo', algo.gigpo.normalisation = 'mean' }
hgpo = { algo.estimator = 'hgpo' }
"""


def write_sweep(folder, config, body):
  folder.mkdir(exist_ok=True)
  path = folder / 'some.toml'
  path.write_text(
    f"runs = '{folder}/runs'\nconfig = 'experiments/configs/{config}.py'\n"
    f'{body}'
  )
  return path


def sweep(path, *more):
  return subprocess.Popen(
    [sys.executable, '-m', 'launch.sweep', str(path), *more],
    cwd=ROOT,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def metrics(folder):
  """What each finished run measured, but for times."""
  return {
    path.parent.name: [
      {k: v for k, v in json.loads(line).items() if not k.startswith('time/')}
      for line in (path.parent / 'metrics.jsonl').read_text().splitlines()
    ]
    for path in sorted((folder / 'runs').glob('*/summary.json'))
  }


def interrupt_and_resume(path, at, *more):
  """Stops a sweep when `at` has a line; returns what its second call says."""
  process, end = sweep(path, *more), time.monotonic() + 300
  while not (at.exists() and at.read_text()):
    assert time.monotonic() < end
    assert process.poll() is None
    time.sleep(0.1)
  process.send_signal(signal.SIGINT)
  said, _ = process.communicate(timeout=120)
  assert process.returncode == 1
  assert 'The same command goes on' in said
  process = sweep(path, *more)
  said, _ = process.communicate(timeout=600)
  assert process.returncode == 0, said
  return said


@pytest.mark.slow
def test_a_sweep_of_the_default_is_interrupted_and_resumed(tmp_path):
  """2 x 2 runs with environment servers equal those of an unbroken sweep."""
  body = """
env_servers = 1
[set]
iterations = 6
warmstart.games = 60
eval.games = 32
rollout.groups = 4
rollout.episodes = 32
[axes]
seed = [0, 1]
[axes.method]
""" + METHODS  # fmt: skip
  paths = [write_sweep(tmp_path / n, 'alfworld_tiny', body) for n in 'ab']
  process = sweep(paths[0])
  said, _ = process.communicate(timeout=900)
  assert process.returncode == 0, said
  second = tmp_path / 'b' / 'runs' / 'gigpo-seed1' / 'metrics.jsonl'
  said = interrupt_and_resume(paths[1], second)
  assert '3 of 4 runs to do' in said
  expected, found = metrics(tmp_path / 'a'), metrics(tmp_path / 'b')
  assert list(expected) == [
    'gigpo-seed0', 'gigpo-seed1', 'hgpo-seed0', 'hgpo-seed1',
  ]  # fmt: skip
  assert all(len(lines) == 6 for lines in expected.values())
  assert found == expected
  process = sweep(paths[1])
  said, _ = process.communicate(timeout=60)
  assert process.returncode == 0
  assert '0 of 4 runs to do' in said
