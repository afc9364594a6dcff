"""Sweep files: what they expand to, what is refused, what is finished."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tomllib

import pytest
from absl import flags
from ml_collections import config_flags

from envs import registry
from experiments.configs import paper
from hgpo_jax.types import ConfigError
from launch import sweep, sweep_file
from launch.job import LaunchError

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = str(ROOT / 'experiments' / 'configs' / 'alfworld_tiny.py')
SWEEPS = ROOT / 'launch' / 'sweeps'


@pytest.fixture(autouse=True)
def _at_root(monkeypatch):
  monkeypatch.chdir(ROOT)  # sweeps name configs from there


def read(tmp_path, text):
  path = tmp_path / 'some.toml'
  path.write_text(f"runs = '{tmp_path}/runs'\nconfig = '{TINY}'\n{text}")
  return sweep_file.read(path)


def refused(tmp_path, text):
  with pytest.raises((LaunchError, ConfigError)) as error:
    sweep.unfinished(read(tmp_path, text).jobs)
  return str(error.value)


def test_axes_are_multiplied_in_order_and_fill_their_fields(tmp_path):
  jobs = read(
    tmp_path, '[set]\niterations = 3\n[axes]\nseed = [0, 7]\nk = [2, 4]\n'
  ).jobs
  assert [job.name for job in jobs] == [
    'k2-seed0', 'k2-seed7', 'k4-seed0', 'k4-seed7',
  ]  # fmt: skip
  assert jobs[2].overrides == {'iterations': 3, 'env.history': 4, 'seed': 0}
  assert jobs[2].run_dir == f'{tmp_path}/runs/k4-seed0'
  assert [sweep.load(job).env.history for job in jobs] == [2, 2, 4, 4]


def test_a_table_of_values_sets_what_it_says(tmp_path):
  toy = TINY.replace('alfworld_tiny', 'toy')
  jobs = read(
    tmp_path,
    '[axes.method]\nplain = { optim.learning_rate = 1e-3 }\n'
    "mean = { algo.hgpo.normalisation = 'mean', "
    'sampling.prompt_buckets = [16, 32] }\n'
    f"[axes.world]\ntoy = {{ config = '{toy}', rollout.groups = 4 }}\n",
  ).jobs
  assert [job.name for job in jobs] == ['plain-toy', 'mean-toy']
  assert {job.config for job in jobs} == {toy}
  assert jobs[0].overrides == {
    'optim.learning_rate': 1e-3,
    'rollout.groups': 4,
  }
  assert sweep.load(jobs[1]).sampling.prompt_buckets == (16, 32)


def test_what_is_checked_is_what_the_trainer_is_told(tmp_path, monkeypatch):
  """The flags of a job, read as `experiments.train` reads them."""
  (job,) = read(
    tmp_path,
    '[axes]\nseed = [3]\n[set]\nsampling.prompt_buckets = [48]\n'
    "optim.learning_rate = 1e-4\nenv.alfworld.task_types = []\ncell = 'a b'\n"
    'rollout.lockstep = true\nwarmstart.explore = 1\n',
  ).jobs
  values = flags.FlagValues()
  found = config_flags.DEFINE_config_file('config', flag_values=values)
  given = [arg for arg in job.arguments if arg.startswith('--config')]
  monkeypatch.setattr(sys, 'argv', ['train', *given])  # where it looks
  values(sys.argv)
  assert found.value.to_dict() == sweep.load(job).to_dict()


def test_a_mesh_that_takes_what_is_left_is_not_that_of_this_machine(tmp_path):
  """Its one row could not be split over the devices that are here."""
  text = (
    '[axes]\nseed = [0]\n[set]\nmesh.fsdp = -1\noptim.microbatch_rows = 1\n'
  )
  (job,) = read(tmp_path, text).jobs
  assert sweep.load(job).mesh.fsdp == -1


def test_the_papers_sweep_names_every_main_cell():
  jobs = sweep_file.read(SWEEPS / 'paper.toml').jobs
  assert [job.config.partition(':')[2] for job in jobs] == [
    cell.name for cell in paper.CELLS.values() if cell.alpha == 1
  ]
  loaded = sweep.load(jobs[-1])
  assert (loaded.cell, loaded.mesh.fsdp) == (jobs[-1].name, 16)
  assert 'env.history' not in jobs[-1].overrides  # the cell says it


def test_the_papers_sweep_suits_its_worlds_and_devices():
  jobs = sweep_file.read(SWEEPS / 'paper.toml').jobs
  for job in (job for job in jobs if '-k4' in job.name):
    config = sweep.load(job)
    world = config.env.world
    assert registry.make_world(world, config.env.chosen)
  small = {**job.overrides, 'mesh.device_gib': 1.0}
  with pytest.raises(ConfigError, match='1.000 GiB'):
    sweep.load(dataclasses.replace(job, overrides=small))


@pytest.mark.parametrize('path', sorted(SWEEPS.glob('*.toml')))
def test_sweeps_of_the_repository_suit_their_back_ends(path):
  found = sweep_file.read(path)
  assert sweep.load(found.jobs[-1])
  tables = set(tomllib.loads(path.read_text())) & set(sweep_file.BACKENDS)
  for name in ('local', *tables):
    assert str(sweep.make_backend(name, found).plan(found.jobs, 0))


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('[axes]\nsed = [1]', "no axis is called 'sed'; expected method, world"),
    (
      "[axes]\nalgo.estimator = ['hgpo']",
      "no axis is called 'algo'; expected method, world, size, k, seed. To "
      'vary a field of the config, name values of an axis and what they set: '
      '`[axes.method]`, and below it `a = { optim.learning_rate = 1e-3 }`.',
    ),
    ("[axes]\n'optim.learning_rate' = [1e-3]", '`a = { optim.learning_rate'),
    ('axis = 1\n[axes]\nseed = [1]', "no key is called 'axis'"),
    ('hosts = 2', 'no axes'),
    ('[axes]\nseed = 3', 'expected a list of values'),
    ('[axes]\nseed = [1, 1]', "several runs are called 'seed1'"),
    ("[axes]\nsize = ['a/b']", 'as it names a folder'),
    ("[axes]\nseed = [1]\n[set]\nrun_dir = 'x'", 'sets run_dir'),
    (
      '[axes]\nseed = [1]\n[set]\nalgo.gama = 1',
      "'algo.gama'; did you mean algo.gamma",
    ),
    ('[axes]\nseed = [1]\n[set]\nalgo = 1', "no field is called 'algo'"),
    ("[axes]\nseed = ['one']", "seed = 'one'"),
    ("[axes]\nmethod = ['gpo']", 'algo.estimator'),
    ('hosts = 0\n[axes]\nseed = [1]', 'hosts is 0; expected at least 1'),
    ("[axes.world]\nx = { config = 'no.py' }", 'no.py is no Python file'),
    (f"[axes.world]\nx = {{ config = '{TINY}:z' }}", 'alfworld_tiny.py:z'),
    (f"[axes.world]\nx = {{ config = '{TINY}:{{k}}' }}", "called 'k'"),
    (f"[axes.world]\nx = {{ config = '{TINY}:{{}}' }}", "called ''"),
    (
      f"[axes.world]\nx = {{ config = '{TINY}:{{' }}",
      'expected axes in braces',
    ),
    ('[axes.world]\nx = { config = 3 }', 'x has no config'),
    ('[axes.method]\nx = 3', 'axes.method.x is 3; expected a table'),
    ('env = 3\n[axes]\nseed = [1]', 'env is 3; expected a table'),
    ('[axes]\nseed = [1]\n[env]\nA = 1', 'env.A is 1; expected a text'),
    ('hosts = true\n[axes]\nseed = [1]', 'hosts is True'),
    ('[axes]\nseed = [', 'some.toml'),
  ],
)
def test_bad_files_are_refused(tmp_path, text, said):
  assert said in refused(tmp_path, text)


def test_a_folder_that_is_no_text_is_refused(tmp_path):
  path = tmp_path / 'some.toml'
  path.write_text('runs = 3\n[axes]\nseed = [1]\n')
  with pytest.raises(LaunchError, match='runs is 3; expected a text'):
    sweep_file.read(path)


def test_options_of_back_ends_are_refused_by_name(tmp_path):
  found = read(tmp_path, "[axes]\nseed = [1]\n[slurm]\ntyme = '1:00'\n")
  with pytest.raises(LaunchError, match="'tyme'; expected of account"):
    sweep.make_backend('slurm', found)
  with pytest.raises(LaunchError, match=r'\[gke\] has no accelerator'):
    sweep.make_backend('gke', found)


def test_finished_runs_are_left_and_others_go_on(tmp_path):
  jobs = read(tmp_path, '[axes]\nseed = [0, 1]\n').jobs
  first = pathlib.Path(jobs[0].run_dir)
  first.mkdir(parents=True)
  config = sweep.load(jobs[0]).to_dict()
  # A run's own file: JSON, and with the addresses of that time.
  config['env']['addresses'] = ['127.0.0.1:7000']
  (first / 'config.json').write_text(json.dumps(config))
  assert sweep.unfinished(jobs) == list(jobs)
  (first / 'summary.json').write_text('{}')
  assert sweep.unfinished(jobs) == [jobs[1]]
  (first / 'config.json').write_text(json.dumps(config | {'iterations': 9}))
  with pytest.raises(ConfigError, match='iterations: 9 -> 250'):
    sweep.unfinished(jobs)


def test_the_command_line_prints_what_it_would_do(tmp_path):
  path = tmp_path / 'some.toml'
  text = (SWEEPS / 'tiny.toml').read_text()
  path.write_text(text.replace('runs/sweep_tiny', f'{tmp_path}/runs'))
  command = [sys.executable, '-m', 'launch.sweep', path, '--dry_run']
  said = subprocess.run(command, capture_output=True, text=True, check=True)
  lines = said.stdout.splitlines()
  assert lines[0] == '# 4 of 4 runs to do'
  assert len(lines) == 5
  assert all('-m launch.host --config=' in line for line in lines[1:])
  assert not (tmp_path / 'runs').exists()
