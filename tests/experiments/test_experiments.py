"""The commands of the README, as a user types them."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from envs import registry
from envs.base import UnknownTask
from experiments.configs import alfworld, alfworld_tiny, base, toy
from hgpo_jax import config as config_lib
from hgpo_jax.train import loop
from tests.alfworld_data import need_package, unpack_released

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'experiments' / 'configs'


def run(*command, ok=True, **env):
  """Runs `python -m ...`; returns stdout, or stderr where it must fail."""
  done = subprocess.run(
    [sys.executable, '-m', *command],
    cwd=ROOT,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', **env},
    capture_output=True,
    text=True,
  )
  assert (done.returncode == 0) == ok, done.stderr
  return done.stdout if ok else done.stderr


@pytest.mark.parametrize('module', [base, alfworld, alfworld_tiny, toy])
def test_configs_hold_the_fields_of_base_and_are_json(module):
  fields = base.get_config().to_dict()
  config = module.get_config().to_dict()
  json.dumps(config)
  shapes = [
    {k: sorted(v) if isinstance(v, dict) else 0 for k, v in c.items()}
    for c in (fields, config)
  ]
  assert shapes[0] == shapes[1]


def test_fields_are_named_by_their_attributes():
  assert base.name(lambda c: c.eval.games) == 'eval.games'
  names = {leaf.name for leaf in config_lib.leaves(base.DEFAULT)}
  assert names >= {base.CELL, base.RUN_DIR, base.SEED}


@pytest.mark.parametrize('world', registry.WORLDS)
def test_a_world_without_options_is_that_of_base(world):
  """So a server that is told none plays what the trainer means."""
  fields = base.get_config().env[world].to_dict()
  assert fields == registry.arguments(world, {})


@pytest.mark.parametrize(
  ('flags', 'match'),
  [
    (
      ['--config.algo.gama=1', '--config.sed=1'],
      "'algo.gama'; did you mean algo.gamma?; no field is called 'sed'",
    ),
    pytest.param(
      ['--config.iterations=many'],
      'Wrong flags: flag --config.iterations=',
      marks=pytest.mark.slow,
    ),
    pytest.param(
      [f'--config={CONFIGS}/paper.py:hgpo'],
      "ValueError: no cell is called 'hgpo'; expected ",
      marks=pytest.mark.slow,
    ),
    pytest.param(
      ['--config=nowhere.py'],
      "OSError: [Errno 2] No such file or directory: 'nowhere.py'",
      marks=pytest.mark.slow,
    ),
  ],
)
def test_what_is_mistyped_is_said_in_a_line(flags, match):
  toy_flag = f'--config={CONFIGS}/toy.py'
  said = run('experiments.train', toy_flag, *flags, ok=False)
  assert match in said.splitlines()[-1]


def test_train_then_evaluate_a_split_of_its_own_world(tmp_path):
  folder = tmp_path / 'run'
  command = [
    'experiments.train',
    f'--config={CONFIGS}/toy.py',
    '--config.iterations=2',
    f'--config.run_dir={folder}',
  ]
  (folder / 'logs').mkdir(parents=True)  # as of what has started it
  said = run(*command)
  assert not (tmp_path / 'run.1').exists()
  assert 'warm_start' in said
  assert 'final' in said
  assert 'compiled' in said
  config = toy.get_config()
  config.eval.splits = ('vaild',)
  with pytest.raises(UnknownTask, match='vaild'):  # before it makes room
    loop.train(base.freeze(config), folder, prepare=pytest.fail)
  (tmp_path / 'thesis.txt').touch()
  said = run(*command, f'--config.run_dir={tmp_path}', ok=False)
  assert 'holds no run' in said
  assert (tmp_path / 'thesis.txt').exists()
  said = run('experiments.evaluate', f'--checkpoint={folder}', '--split=valid')
  assert re.search(r'all +\d\.\d+ +4\n', said)
  (path,) = folder.glob('evaluation_valid_*.json')
  result = json.loads(path.read_text())
  assert result['games'] == 4
  assert not {'data', 'engine'} & set(result)  # which this world lacks
  short = '--config.iterations=1', '--config.eval.games=-1'
  said = run(*command, *short)  # the older run is kept
  assert 'moved to' in said
  assert (tmp_path / 'run.1' / 'summary.json').exists()


def test_bench_advantages_ends_with_json():
  small = '--groups=2', '--steps=5', '--depth=1', '--large=0'
  said = run('experiments.bench.advantages', *small, '--json')
  table = json.loads(said.splitlines()[-1])['table']
  assert {'gigpo', 'hgpo', 'hgpo_shrink'} < {row['estimator'] for row in table}
  assert all(row['jit_ms'] > 0 and row['numpy_ms'] > 0 for row in table)


def test_bench_env_ends_with_json():
  need_package('alfworld', 'textworld')
  said = run('experiments.bench.env', '--games=1', '--steps=3', '--json')
  assert json.loads(said.splitlines()[-1])['ratio'] > 1


@pytest.mark.slow
def test_released_games_are_trained_on_and_evaluated_once_each(tmp_path):
  root = unpack_released(tmp_path / 'games', every=60)
  folder = tmp_path / 'run'
  run(
    'experiments.train',
    f'--config={CONFIGS}/alfworld_tiny.py',
    f'--config.run_dir={folder}',
    '--config.iterations=2',
    '--config.env.alfworld.data=files',
    '--config.warmstart.games=40',
    '--config.eval.games=0',
    "--config.eval.splits=('valid_seen',)",
    ALFWORLD_DATA=str(root),
  )
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  assert len(lines) == 2
  said = run(
    'experiments.evaluate',
    f'--checkpoint={folder}',
    '--split=valid_seen',
    ALFWORLD_DATA=str(root),
  )
  games = len(list((root / 'json_2.1.1' / 'valid_seen').rglob('game.tw-pddl')))
  assert re.search(rf'all +\d\.\d+ +{games}\n', said)
