"""A training run on remote servers: equal numbers, and no work is lost."""

import json

import pytest

from envs.serving import fleet
from experiments.configs import base, toy
from hgpo_jax.train import actor, loop
from tests import chaos
from tests.runs import records

STEPS = 4


def config(addresses=(), **env):
  c = toy.get_config().unlock()
  c.iterations, c.eval.games, c.checkpoint.every = STEPS, -1, 0
  c.rollout.update(groups=2, group_size=4, episodes=8, lockstep=True)
  c.env.update(addresses=addresses, timeout=20.0, patience=2.0, **env)
  return base.freeze(c)


def faults(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line)['time/env_faults'] for line in lines]


def test_a_run_outlives_its_servers(tmp_path, monkeypatch):
  """One server dies and nobody notices; both die and the run is resumed."""
  loop.train(config(), tmp_path / 'quiet')
  expected = records(tmp_path / 'quiet')
  with chaos.Chaos(2, 'toy', {'num_words': 4}) as world:
    c, folder = config(world.addresses), tmp_path / 'remote'
    dying = {1: world.servers[:1], 2: world.servers[1:]}
    rollout = actor.Actor.rollout

    def broken(self, params, step):
      for server in dying.pop(step, ()):
        server.kill()
      return rollout(self, params, step)

    monkeypatch.setattr(actor.Actor, 'rollout', broken)
    with pytest.raises(fleet.ServersLost) as error:
      loop.train(c, folder)
    assert all(address in str(error.value) for address in world.addresses)
    assert records(folder) == expected[:2]
    assert faults(folder)[0] == 0 < faults(folder)[1]
    for server in world.servers:
      server.restart()
      server.ready()
    loop.train(c, folder, resume=True)
    assert records(folder) == expected
