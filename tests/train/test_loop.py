"""The whole loop on a tiny world: it learns, and a resumed run is unbroken."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from hgpo_jax.model import lora
from hgpo_jax.train import checkpoint, loop, progress, warm_start, worlds
from hgpo_jax.train import learner as learner_lib
from hgpo_jax.train.actor import Actor
from hgpo_jax.types import ConfigError
from tests.runs import config, records

ROOT = pathlib.Path(__file__).resolve().parents[2]


def results(folder):
  summary = json.loads((folder / 'summary.json').read_text())
  del summary['seconds'], summary['compilations']
  return summary


@pytest.fixture(scope='module')
def learned(tmp_path_factory):
  folder = tmp_path_factory.mktemp('runs') / 'up'
  return folder, loop.train(config(), folder)


def test_hgpo_learns_from_random_init(learned):
  folder, summary = learned
  before, after = summary['warm_start'], summary['final']
  assert before['train']['1.0']['success'] < 0.3
  assert after['train']['1.0']['success'] >= 0.9
  assert after['valid']['1.0']['success'] >= 0.9
  found = records(folder)
  assert [r['step'] for r in found] == list(range(80))
  # Before the first update nothing has moved.
  assert found[0]['update/first_ratio_error'] < 1e-5
  assert found[0]['update/first_kl_ref'] < 1e-9
  assert (folder / 'config.json').exists()
  assert list((folder / 'tensorboard').iterdir())


def test_negated_advantages_unlearn(learned, tmp_path):
  """From a policy that has learned: its own checkpoint, the sign turned."""
  folder, summary = learned
  c = config(algo__advantage_sign=-1.0, iterations=100)
  with checkpoint.opened(folder / 'checkpoints') as store:
    before = store.meta()
    with worlds.open_environments(c) as environments:
      state, played = unlearn(c, environments, folder, store)
  assert before['step'] == 80
  won = np.mean([t.won for t in played])
  assert won < summary['final']['train']['1.0']['success'] - 0.3


def unlearn(c, environments, folder, store):
  policy, reference = warm_start.warm_start(c, environments, folder)
  actor = Actor(environments, policy)
  learner = learner_lib.make_learner(policy, actor.sampling)
  state = policy.init_state(reference, learner.optimizer)
  state = progress.restored(store, state)
  for step in range(80, 95):
    played = actor.rollout(state.params, step)
    state, _ = learner.update(state, reference, played, (0, step))
  return state, actor.rollout(state.params, 95)


def test_a_killed_run_resumes_to_the_same_numbers(tmp_path):
  """SIGKILL at a random moment, then --resume, against an unbroken run."""
  flags = [
    f'--config={ROOT}/experiments/configs/toy.py',
    '--config.iterations=90',
    '--config.checkpoint.every=3',
  ]

  def start(name, *more):
    # The warm start is cached beside the run: each has its own.
    return subprocess.Popen(
      [sys.executable, '-m', 'experiments.train', *flags,
       f'--config.run_dir={tmp_path / name / "run"}', *more],
      cwd=ROOT,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    )  # fmt: skip

  broken = start('broken')
  metrics = tmp_path / 'broken' / 'run' / 'metrics.jsonl'
  seed = random.randrange(2**32)
  stop_at = random.Random(seed).randint(2, 60)
  print(f'seed {seed}: killed after {stop_at} records')
  while broken.poll() is None and (
    not metrics.exists() or metrics.read_text().count('\n') < stop_at
  ):
    time.sleep(0.02)
  assert broken.poll() is None, 'the run ended before it could be killed'
  broken.kill()
  broken.wait()
  resumed, whole = start('broken', '--resume'), start('whole')
  assert resumed.wait() == whole.wait() == 0
  folders = [tmp_path / name / 'run' for name in ('broken', 'whole')]
  assert records(folders[0]) == records(folders[1])
  assert results(folders[0]) == results(folders[1])


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path):
  run = subprocess.Popen(
    [sys.executable, '-m', 'experiments.train',
     f'--config={ROOT}/experiments/configs/toy.py',
     '--config.iterations=100000', '--config.eval.games=-1',
     f'--config.run_dir={tmp_path / "run"}'],
    cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
  )  # fmt: skip
  metrics = tmp_path / 'run' / 'metrics.jsonl'
  while run.poll() is None and not metrics.exists():
    time.sleep(0.1)
  run.send_signal(signal.SIGINT)
  _, said = run.communicate(timeout=60)
  assert run.returncode != 0
  assert '--resume' in said
  assert 'Interrupted' in said
  with checkpoint.opened(tmp_path / 'run' / 'checkpoints') as store:
    assert store.meta()['step'] == len(records(tmp_path / 'run'))


@pytest.mark.slow
def test_adapters_alone_are_trained_saved_and_resumed(tmp_path):
  changes = {
    'policy__lora__rank': 4,
    'optim__moments_dtype': 'bfloat16',
    'loss__old_log_probs': 'score',
    'eval__games': -1,
    'checkpoint__every': 1,
    'iterations': 3,
  }
  whole, parts = tmp_path / 'whole' / 'run', tmp_path / 'parts' / 'run'
  loop.train(config(**changes), whole)
  shutil.copytree(whole, parts)
  for step in (2, 3):
    shutil.rmtree(parts / 'checkpoints' / str(step))
  loop.train(config(**changes), parts, resume=True)
  assert records(parts) == records(whole)
  last = records(whole)[-1]
  assert last['update/sampler_kl'] < 1e-9  # sampled and scored by one policy
  assert last['update/sampler_ratio_max'] == pytest.approx(1, abs=1e-4)
  c = config(**changes)
  with (
    worlds.open_environments(c) as environments,
    checkpoint.opened(whole / 'checkpoints') as store,
  ):
    policy, base = warm_start.warm_start(c, environments, whole)
    params = policy.saved_params(whole, store, 3)
    saved = store.meta()['checksums']
  adapters, rest = lora.split(params)
  jax.tree.map(np.testing.assert_array_equal, rest, base)
  assert any((np.asarray(x) != 0).any() for x in jax.tree.leaves(adapters))
  assert saved
  assert not any('frozen' in name for name in saved)
  assert all('lora' in name for name in saved if name.startswith('params'))


def test_a_resumed_run_must_have_the_same_config(learned):
  folder, _ = learned
  other = config(iterations=90, optim__learning_rate=1e-5)
  with pytest.raises(
    checkpoint.CheckpointError, match='optim.learning_rate: 0.003 -> 1e-05'
  ):
    loop.train(other, folder, resume=True)


def test_a_mistyped_name_lists_what_there_is(tmp_path):
  for changes, match in (
    ({'algo__estimator': 'hgpoo'}, "'hgpoo'.*'hgpo'"),
    ({'algo__hgpo__weighting': 'heavy'}, 'algo.hgpo.*heavy.*paper'),
    ({'policy__preset': 'big'}, "policy.preset is 'big'"),
    ({'loss__kl': 'k4'}, "loss.kl is 'k4'"),
    ({'loss__aggregation': 'sum'}, 'loss.aggregation'),
    ({'rollout__groups': 0}, 'rollout.groups is 0'),
    (
      {'rollout__episodes': 0, 'rollout__decode_rows': 4},
      'rollout.episodes is 0',
    ),
    ({'rollout__workers': -1}, 'rollout.workers is -1'),
  ):
    with pytest.raises(ConfigError, match=match):
      loop.train(config(**changes), tmp_path / 'run')
  assert not (tmp_path / 'run' / 'warm_start').exists()
