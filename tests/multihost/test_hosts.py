"""Runs of several processes: equal to one's, and none goes on alone."""

import json
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from hgpo_jax.multihost import exchange, hosts
from hgpo_jax.train import checkpoint
from tests import several
from tests.runs import records

ITERATIONS = 6
PREEMPTED = 75
TRAIN = (
  '-m',
  'experiments.train',
  '--config=experiments/configs/alfworld_tiny.py',
  f'--config.iterations={ITERATIONS}',
  '--config.mesh.data=2',
  '--config.mesh.fsdp=2',
  '--config.mesh.tensor=2',
  '--config.optim.microbatch_rows=4',
  '--config.warmstart.games=20',
  '--config.warmstart.tokenizer_games=40',
  '--config.rollout.groups=3',
  '--config.rollout.group_size=5',
  '--config.rollout.max_groups=4',
  '--config.eval.games=4',
  '--config.eval.temperatures=(1.0,)',
  '--config.checkpoint.every=1',
)


def test_a_process_alone_does_all_and_says_all():
  assert hosts.share(7) == range(7)
  assert hosts.portion(7) == 7
  assert hosts.gather(b'x') == [b'x']
  assert hosts.total({'a': 2}) == {'a': 2}
  assert hosts.broadcast_from_first(3) == 3
  assert not hosts.any_process(False)
  assert exchange.exchanged(('played',)) == ['played']
  with pytest.raises(ZeroDivisionError):  # as it came
    exchange.exchanged((), ZeroDivisionError())


def test_any_one_element_that_differs_changes_the_checksum():
  rng = np.random.default_rng(0)
  for dtype in ('float32', 'bfloat16', 'int32', 'bool'):
    x = np.asarray(jnp.asarray(rng.normal(size=(3, 4, 5)) * 4, dtype))
    plain = checkpoint.checksum(x)
    seen = set()
    for place in np.ndindex(x.shape):
      other = x.copy()
      other[place] = not x[place] if dtype == 'bool' else x[place] + 1
      seen.add(int(checkpoint.checksum(other)))
    assert int(plain) not in seen
    assert len(seen) == x.size  # and the place of it shows
  two = jnp.arange(2.0)
  assert checkpoint.checksum(two) != checkpoint.checksum(two[::-1])
  assert checkpoint.checksum(jnp.float32(1)) == 0x3F800000


def test_two_processes_know_the_same(tmp_path):
  started = several.start(['-m', 'tests.check_hosts'], 2, tmp_path)
  codes = several.ended(started, tmp_path)
  assert codes == [0, 0], several.said(tmp_path)


def alike(folder, others):
  found, expected = records(folder), records(others)
  assert len(found) == len(expected) == ITERATIONS
  for record, like in zip(found, expected, strict=True):
    assert record == pytest.approx(like, rel=1e-5, abs=1e-5)


def run(folder, count, *more):
  return several.start(
    [*TRAIN, f'--config.run_dir={folder}', *more], count, folder / 'logs'
  )


def reached(folder, lines):
  """A function: whether the run has written so many iterations."""
  path = folder / 'metrics.jsonl'
  return lambda: path.exists() and len(path.read_text().splitlines()) >= lines


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """A run of one process with all devices."""
  folder = tmp_path_factory.mktemp('alone') / 'run'
  assert several.ended(run(folder, 1), folder / 'logs') == [0]
  return folder


@pytest.mark.slow
@pytest.mark.parametrize('count', [2, 4])
def test_processes_train_as_one(alone, tmp_path, count):
  folder = tmp_path / 'run'
  codes = several.ended(run(folder, count), folder / 'logs')
  assert codes == [0] * count, several.said(folder / 'logs')
  alike(folder, alone)
  found, expected = (
    json.loads((f / 'summary.json').read_text()) for f in (folder, alone)
  )
  for phase in ('warm_start', 'final'):
    assert found[phase] == expected[phase]


CRITIC = ('--config.algo.estimator=ppo',)
ADAPTERS = (
  '--config.policy.lora.rank=4',
  '--config.loss.old_log_probs=score',
  '--config.loss.kl_coef=0.01',
)


@pytest.mark.slow
@pytest.mark.parametrize('more', [CRITIC, ADAPTERS])
def test_critics_and_adapters_in_two_processes(tmp_path, more):
  for count in (1, 2):
    started = several.start(
      [
        '-m',
        'experiments.train',
        '--config=experiments/configs/toy.py',
        '--config.iterations=3',
        '--config.eval.games=-1',
        '--config.mesh.data=4',
        '--config.mesh.tensor=2',
        f'--config.run_dir={tmp_path / str(count)}',
        *more,
      ],
      count,
      tmp_path / str(count) / 'logs',
    )
    codes = several.ended(started, tmp_path / str(count) / 'logs')
    assert codes == [0] * count, several.said(tmp_path / str(count) / 'logs')
  found, expected = (records(tmp_path / name) for name in ('2', '1'))
  assert len(found) == len(expected) == 3
  for record, like in zip(found, expected, strict=True):
    assert record == pytest.approx(like, rel=1e-5, abs=1e-5)


@pytest.mark.slow
def test_none_goes_on_alone_and_any_number_goes_on_together(alone, tmp_path):
  """Four lose one; two go on and one of them is preempted; one ends it."""
  folder = tmp_path / 'run'
  logs = folder / 'logs'
  started = run(folder, 4)
  several.kill(started, 3, reached(folder, 3))
  codes = several.ended(started, logs, seconds=300)
  assert 0 not in codes, several.said(logs)
  assert codes[3] == -signal.SIGKILL, several.said(logs)
  saved = len(records(folder))
  assert 3 <= saved < ITERATIONS - 1
  started = run(folder, 2, '--resume')
  several.interrupt(started, 1, signal.SIGTERM, reached(folder, saved + 1))
  assert several.ended(started, logs) == [PREEMPTED] * 2, several.said(logs)
  assert len(records(folder)) < ITERATIONS
  assert several.ended(run(folder, 1, '--resume'), logs) == [0]
  alike(folder, alone)
