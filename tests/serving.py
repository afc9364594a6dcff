"""Servers in this process, and ways to talk to them."""

import grpc
import pytest

from envs import checker, registry
from envs.base import ResetNeeded, Task, UnknownTask
from envs.serving import client, identity, server
from envs.toy import GuessEnv

TOKEN = 'a token of twenty-odd letters'
ODD = (
  'naïve 打开 🍎 \u2028 \ud800 \x00 "\\\r\n'  # text that formats tend to spoil
)
LOOPBACK = server.Access()


def who(world='toy', **options):
  return identity.identify(world, options, registry.make_world(world, options))


class Serving:
  """A server in this process, and a raw channel to it."""

  def __init__(
    self, make_env=GuessEnv, who_it_is=None, access=LOOPBACK, **options
  ):
    self.identity = who_it_is or who()
    self._running = server.start(make_env, self.identity, access, **options)
    self.address = f'127.0.0.1:{self._running.port}'
    self.channel = grpc.insecure_channel(self.address)

  def call(self, method, data, service=server.SERVICE, **options):
    call = self.channel.unary_unary(f'/{service}/{method}')
    return call(data, timeout=10, **options)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.channel.close()
    self._running.stop()


def connect(*addresses, world='toy', options=None, **settings):
  settings = {'timeout': 10, 'patience': 10, **settings}
  return client.GrpcClient(addresses, world, options or {}, **settings)


def refusal(serving, method, data, **options):
  """The status of a call that is refused; the server has to live on."""
  with pytest.raises(grpc.RpcError) as error:
    serving.call(method, data, **options)
  health = serving.call('Check', b'', service=server.HEALTH)
  assert health == server.SERVING
  return error.value.code().name, error.value.details()


class RemoteEnv:
  """One environment of a client, for the contract checker."""

  def __init__(self, step_envs, env_id):
    self._step_envs, self._env_id = step_envs, env_id

  def reset(self, task):
    return self._step_envs({self._env_id: task})[self._env_id]

  def step(self, action):
    return self._step_envs({self._env_id: action})[self._env_id]


def check_remote(step_envs, tasks, **options):
  """`check_env` behind a client; each environment has a number of its own."""
  numbers = iter(range(10**6))
  return checker.check_env(
    lambda: RemoteEnv(step_envs, next(numbers)), tasks, **options
  )


def play_script(step_envs):
  """Resets, right and wrong answers, and uneven sets of environments."""
  answers = [step_envs({s: Task('train', s % 12) for s in (0, 3, 1, 8, 5)})]
  answers.append(step_envs(dict.fromkeys((5, 0, 3), 'red')))
  answers.append(step_envs({8: 'green', 3: ODD}))
  answers.append(step_envs({3: Task('valid', 1)}))
  answers.append(step_envs({}))
  for requests, kind in (({0: 'a', 11: 'b'}, ResetNeeded),
                      ({0: Task('test', 0)}, UnknownTask)):  # fmt: skip
    for _ in range(2):
      with pytest.raises(kind) as error:
        step_envs(requests)
      answers.append(str(error.value))
  answers.append(step_envs({8: 'green', 5: 'red'}))
  return answers
