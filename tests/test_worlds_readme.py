"""The world in envs/README.md: it keeps the contract, here and served."""

import pathlib
import re
import sys

import pytest

from envs import checker, grpc_client, local, registry
from envs.base import Task
from test_remote import check_remote

README = pathlib.Path(__file__).resolve().parents[1] / 'envs' / 'README.md'
NAME, OPTIONS = 'countdown:Countdown', {'largest': 7}
TASKS = [Task('train', i) for i in range(7)]


@pytest.fixture
def installed(tmp_path, monkeypatch):
  (source,) = re.findall(r'```python\n(.*?)```', README.read_text(), re.S)
  (tmp_path / 'countdown.py').write_text(source)
  monkeypatch.delitem(sys.modules, 'countdown', raising=False)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setenv('PYTHONPATH', str(tmp_path))


def test_it_keeps_the_contract_and_its_expert_wins(installed):
  world = registry.make_world(NAME, OPTIONS)
  assert checker.check_env(world.make_env, TASKS).ended == len(TASKS)
  env = world.make_env()
  for task in TASKS:
    env.reset(task)
    turns = world.demonstrate(task, seed=0, explore=0.0, noise=0.0)
    assert [env.step(turn.action).won for turn in turns][-1]


def test_it_is_served_by_its_name(installed):
  with local.LocalServer(NAME, OPTIONS) as server:
    address = server.ready()
    with grpc_client.GrpcClient([address], NAME, OPTIONS) as step_envs:
      assert check_remote(step_envs, TASKS).ended == len(TASKS)


def test_names_that_lead_nowhere_are_told():
  for name in ('no_module:World', 'json:Nothing', ':x', 'nothing', 'os:sep'):
    with pytest.raises(registry.UnknownWorld, match='no world'):
      registry.make_world(name, {})
