"""Environments in this process: errors stay where they belong."""

import pytest

from envs import inline, registry
from envs.base import EnvError, GameError, ServerError, Step, Task
from envs.toy import GuessEnv


class Echo:
  """Repeats what it hears; fails on command."""

  def reset(self, task):
    if task.split == 'broken':
      raise GameError('broken game')
    return Step('ready')

  def step(self, action):
    if action == 'defect':
      raise KeyError('oops')
    return Step(action)


def test_an_error_stays_in_its_environment():
  step_envs = inline.InlineClient(Echo)
  requests = {0: 'fine', 1: 'defect', 2: Task('broken', 0)}
  with pytest.raises(ServerError, match='(?s)environment 1.*KeyError') as error:
    step_envs(requests)
  assert 'defect of its world' in str(error.value)
  with pytest.raises(GameError, match='broken game'):
    step_envs({2: Task('broken', 0)})
  assert step_envs({1: 'on'}) == {1: Step('on')}


def test_inline_client_is_a_context_too():
  with inline.InlineClient(lambda: GuessEnv(2)) as step_envs:
    assert step_envs({4: Task('train', 0)})[4].admissible == ('green', 'red')


def test_errors_of_worlds_are_environment_errors():
  assert issubclass(registry.UnknownWorld, EnvError)
