"""The world in envs/README.md: it keeps the contract, served and in a run."""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys

import pytest

from envs import checker, registry
from envs.base import Task, UnknownTask
from envs.serving import client, local
from experiments.configs import alfworld_tiny, base
from hgpo_jax.train import config_checks, loop, worlds
from tests.runs import records
from tests.serving import check_remote

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'envs' / 'README.md').read_text()
NAME, OPTIONS = 'countdown:Countdown', {'largest': 7}
TASKS = [Task('train', i) for i in range(7)]


@pytest.fixture
def installed(tmp_path, monkeypatch):
  for source in re.findall(r'```python\n(.*?)```', PAGE, re.S):
    name = source.strip('"').partition(':')[0]  # its docstring says it
    (tmp_path / name).write_text(source)
    monkeypatch.delitem(sys.modules, name.removesuffix('.py'), raising=False)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setenv('PYTHONPATH', str(tmp_path))


def config():
  import countdown_config

  return base.freeze(countdown_config.get_config())


def test_it_keeps_the_contract_and_its_expert_wins(installed):
  world = registry.make_world(NAME, OPTIONS)
  assert checker.check_env(world.make_env, TASKS).ended == len(TASKS)
  env = world.make_env()
  for task in TASKS:
    env.reset(task)
    turns = world.demonstrate(task, seed=0, explore=0.0, noise=0.0)
    assert [env.step(turn.action).won for turn in turns][-1]
  with pytest.raises(UnknownTask, match="no split 'valid'"):
    world.num_tasks('valid')


def test_it_is_served_by_its_name(installed):
  with local.LocalServer(NAME, OPTIONS) as server:
    address = server.ready()
    with client.GrpcClient([address], NAME, OPTIONS) as step_envs:
      assert check_remote(step_envs, TASKS).ended == len(TASKS)


def test_its_config_suits_it(installed):
  c = config()
  config_checks.check(c)
  with worlds.open_environments(c) as environments:
    steps = environments.step_envs(dict(enumerate(TASKS)))
    assert {step.observation for step in steps.values()} == {
      f'{n}!' for n in range(1, 8)
    }
    widest = max(len(step.admissible) for step in steps.values())
    assert widest == OPTIONS['largest'] <= max(c.sampling.choice_buckets)
    assert all(environments.world.num_tasks(split) for split in c.eval.splits)


def test_an_iteration_trains_with_it_inline_and_behind_servers(
  installed, tmp_path
):
  seen = []
  for servers in (0, 1):
    c = config()
    c = dataclasses.replace(
      c,
      iterations=1,
      eval=dataclasses.replace(c.eval, games=-1),
      env=dataclasses.replace(c.env, servers=servers),
    )
    loop.train(c, tmp_path / str(servers))
    seen.append(records(tmp_path / str(servers)))
  assert seen[0] == seen[1]
  assert len(seen[0]) == 1


@pytest.mark.slow
def test_its_config_learns_it(installed, tmp_path):
  won = loop.train(config(), tmp_path / 'run')['final']['train']['1.0']
  assert won['success'] > 0.8


def test_the_pages_server_plays_for_the_default_run():
  (command,) = re.findall(
    r'```\n(python -m envs.serve[^`]*alfworld_tiny[^`]*)\n```', PAGE
  )
  python = str(pathlib.Path(sys.executable).parent)
  with subprocess.Popen(
    ['bash', '-c', f'exec {command} --until_stdin_ends'],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    cwd=ROOT,
    env={**os.environ, 'PATH': f'{python}:{os.environ["PATH"]}'},
  ) as server:
    address = server.stdout.readline().split()[-1]
    env = alfworld_tiny.get_config().env
    with client.GrpcClient(
      [address], env.world, env.alfworld.to_dict()
    ) as step_envs:
      assert step_envs({0: Task('train', 0)})[0].admissible
    server.stdin.close()


def test_names_that_lead_nowhere_are_told():
  for name in ('no_module:World', 'json:Nothing', ':x', 'nothing', 'os:sep'):
    with pytest.raises(registry.UnknownWorld, match='no world'):
      registry.make_world(name, {})
