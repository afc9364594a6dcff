"""No episode is lost or changed while servers die, hang and are cut off."""

import concurrent.futures
import dataclasses
import itertools
import pathlib
import random

import pytest

from envs import inline, registry
from envs.base import Task
from envs.serving import client, fleet
from experiments.configs import alfworld_tiny, base
from hgpo_jax.train import warm_start, worlds
from hgpo_jax.train.actor import Actor
from tests import chaos

WORLD, OPTIONS = 'alfworld', {'family': 'easy', 'max_turns': 30}


def play(step_envs, tasks, between=lambda turn: None):
  """Plays all tasks at once, as a policy keyed by (episode, turn) would.

  Returns: per episode its tasks, actions and steps.
  """
  steps = step_envs(dict(enumerate(tasks)))
  played = {env_id: [tasks[env_id], step] for env_id, step in steps.items()}
  turn = 0
  while steps:
    between(turn)
    actions = {
      env_id: random.Random(f'{env_id} {turn}').choice(step.admissible)
      for env_id, step in steps.items()
      if not step.done
    }
    steps = step_envs(actions)
    for env_id, step in steps.items():
      played[env_id] += [actions[env_id], step]
    turn += 1
  return played


def quiet(tasks, options=OPTIONS):
  return play(
    inline.InlineClient(registry.make_world(WORLD, options).make_env), tasks
  )


def check_faults(episodes, servers, faults, seconds):
  """Compares a run among faults with a quiet one; returns what happened.

  A fault lasts longer than a request may take, so that a stopped server counts
  as hung.
  """
  rng = random.Random(episodes)
  tasks = [Task('train', i) for i in range(episodes)]
  kinds = [chaos.FAULTS[i % len(chaos.FAULTS)] for i in range(faults)]
  rng.shuffle(kinds)
  left = iter(kinds)

  with chaos.Chaos(servers, WORLD, OPTIONS) as world:

    def between(turn):
      if turn % max(1, 24 // faults) == 0 and (kind := next(left, None)):
        world.strike(kind, delay=rng.uniform(0, 0.01), seconds=seconds)

    with client.GrpcClient(
      world.addresses, WORLD, OPTIONS, timeout=30, patience=60
    ) as step_envs:
      step_envs._timeout = 1  # from here on: all of them are up
      found = play(step_envs, tasks, between)
      # Servers that came back are used again.
      assert play(step_envs, tasks[:servers]) == quiet(tasks[:servers])
      counts = step_envs.counts
    struck = list(world.struck)
  assert found == quiet(tasks)
  assert len(struck) == faults
  print(f'\n{struck}: {counts}; {counts.lost_s / faults:.2f} s lost per fault')
  return counts


def test_a_few_faults_change_nothing():
  counts = check_faults(episodes=16, servers=2, faults=4, seconds=1.5)
  assert counts.faults > 0
  assert counts.rebuilds > 0


@pytest.mark.slow
def test_many_faults_change_nothing():
  counts = check_faults(episodes=64, servers=4, faults=20, seconds=2.0)
  assert counts.faults >= 5
  assert counts.rebuilds > 0
  assert counts.returned > 0


@pytest.mark.slow
def test_a_policy_among_faults_says_the_same(tmp_path):
  """The embedded default's, in lockstep: every byte of its episodes."""
  c = alfworld_tiny.get_config().unlock()
  c.warmstart.update(games=60, tokenizer_games=60)
  c.rollout.update(groups=8, group_size=8, lockstep=True)
  c.rollout.update(episodes=64, decode_rows=64)
  c.env.update(timeout=1.0, patience=60.0)
  c = base.freeze(c)
  with worlds.open_environments(c) as environments:
    policy, params = warm_start.warm_start(c, environments, tmp_path / 'run')
    expected = Actor(environments, policy).rollout(params, 0)
  kinds, calls = itertools.cycle(chaos.FAULTS), itertools.count()
  with chaos.Chaos(4, WORLD, c.env.chosen) as world:
    env = dataclasses.replace(c.env, addresses=tuple(world.addresses))
    c = dataclasses.replace(c, env=env)
    with worlds.open_environments(c) as environments:

      def struck(requests):
        if 1 <= next(calls) <= 20:
          world.strike(next(kinds), delay=0.005, seconds=2.0)
        return environments.step_envs(requests)

      broken = dataclasses.replace(environments, step_envs=struck)
      found = Actor(broken, policy).rollout(params, 0)
      assert environments.counts()['faults'] >= 5
    assert len(world.struck) == 20
  assert list(map(plain, found)) == list(map(plain, expected))


def plain(trajectory):
  """A trajectory as values that == compares, arrays as their bytes."""
  turns = [
    {k: v.tobytes() if hasattr(v, 'tobytes') else v for k, v in vars(t).items()}
    for t in trajectory.turns
  ]
  return {**vars(trajectory), 'turns': turns}


def test_all_servers_may_vanish_and_come_back():
  tasks = [Task('train', i) for i in range(4)]
  with chaos.Chaos(1, WORLD, OPTIONS) as world:

    def between(turn):
      if turn in (3, 9):
        world.strike('kill', delay=0, seconds=0.2)

    with client.GrpcClient(
      world.addresses, WORLD, OPTIONS, timeout=5, patience=60
    ) as step_envs:
      assert play(step_envs, tasks, between) == quiet(tasks)
      assert step_envs.counts.returned >= 1
      assert step_envs.counts.rebuilds >= 4


def test_threads_share_a_client_among_faults():
  """As `rollout.workers` do: every thread plays an episode of its own."""
  tasks = [Task('train', i) for i in range(8)]
  with (
    chaos.Chaos(2, WORLD, OPTIONS) as world,
    client.GrpcClient(
      world.addresses, WORLD, OPTIONS, timeout=5, patience=60
    ) as step_envs,
    concurrent.futures.ThreadPoolExecutor(len(tasks)) as threads,
  ):

    def alone(env_id):
      def shifted(requests):
        return {0: step_envs({env_id: requests[0]})[env_id]} if requests else {}

      def between(turn):
        if env_id in (3, 4) and turn == 5:
          world.strike('kill', delay=0, seconds=0.2)

      return play(shifted, [tasks[env_id]], between)

    found = list(threads.map(alone, range(len(tasks))))
    assert found == [quiet([task]) for task in tasks]
    assert step_envs.counts.faults > 0


def test_servers_that_stay_away_are_named():
  with chaos.Chaos(2, 'toy', {}) as world:
    step_envs = client.GrpcClient(
      world.addresses, 'toy', {}, timeout=5, patience=2
    )
    step_envs({0: Task('train', 0)})
    for server in world.servers:
      server.kill()
    with pytest.raises(fleet.ServersLost) as error:
      step_envs({0: 'red'})
    assert all(address in str(error.value) for address in world.addresses)
    step_envs.close()


def resident(pid):
  """Bytes of memory that a process holds."""
  status = pathlib.Path(f'/proc/{pid}/status').read_text()
  (line,) = (x for x in status.splitlines() if x.startswith('VmRSS'))
  return 1024 * int(line.split()[1])


def soak(episodes, rows=50):
  """Plays so many episodes; memory must not grow after the first third."""
  options = {'family': 'easy', 'max_turns': 8}
  tasks = [Task('train', i) for i in range(rows)]
  expected = quiet(tasks, options)
  with chaos.Chaos(2, WORLD, options) as world:
    pids = ['self', *(server.process.pid for server in world.servers)]
    with client.GrpcClient(world.addresses, WORLD, options) as step_envs:
      rounds, before = episodes // rows, []
      for number in range(rounds):
        if number == max(1, rounds // 3):
          before = [resident(pid) for pid in pids]
        assert play(step_envs, tasks) == expected
      after = [resident(pid) for pid in pids]
      assert step_envs.counts.faults == 0
  grown = [b - a for a, b in zip(before, after, strict=True)]
  print(f'\n{episodes} episodes: memory grew by {grown} of {after} bytes')
  assert max(grown) < 8 * 2**20


def test_memory_is_steady():
  soak(300)


@pytest.mark.slow
def test_memory_is_steady_over_thousands_of_episodes():
  soak(5000)
