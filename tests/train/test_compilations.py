"""XLA's compilations are counted once each, and only while somebody listens."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from hgpo_jax.train.compilations import Compilations
from tests import alfworld_data


def test_each_new_shape_counts_once():
  fn = jax.jit(lambda x: x * 2 + 1)
  first, second = jnp.ones(3), jnp.ones(5)
  with Compilations() as compilations:
    for x in (first, second, first, second):
      fn(x)
    assert compilations.count == 2
    assert compilations.seconds > 0
    jnp.ones(7) + 3  # eager operations are compiled, too
    assert compilations.count > 2
  counted = compilations.count
  fn(jnp.ones(11))
  assert compilations.count == counted


ROLLOUT = """
import json, pathlib, sys
from hgpo_jax.train.compilations import Compilations
with Compilations() as compilations:  # from the process's start
  from experiments.configs import alfworld_tiny, base
  from hgpo_jax.train import warm_start, worlds
  from hgpo_jax.train.actor import Actor
  c = alfworld_tiny.get_config()
  c.env.alfworld.max_turns = int(sys.argv[1])
  c.rollout.update(groups=2, group_size=4, episodes=8, decode_rows=8)
  c.warmstart.update(games=0, tokenizer_games=24)
  c = base.freeze(c)
  with worlds.open_environments(c) as environments:
    policy, params = warm_start.warm_start(
      c, environments, pathlib.Path(sys.argv[2])
    )
    actor = Actor(environments, policy)
    played = actor.rollout(params, 0)
print(json.dumps({
  'turns': max(len(t.turns) for t in played),
  'programs': compilations.count,
  'generation': len(actor.sampled.shapes),
}))
"""


# Of the batcher alone: tests/sampler/test_batcher.py.
@pytest.mark.slow
def test_long_rollouts_compile_no_more(tmp_path):
  alfworld_data.need_package('alfworld')
  runs = [
    subprocess.Popen(
      [sys.executable, '-c', ROLLOUT, str(turns), str(tmp_path / str(turns))],
      stdout=subprocess.PIPE,
      text=True,
    )
    for turns in (50, 200)
  ]
  short, long = (json.loads(r.communicate()[0].splitlines()[-1]) for r in runs)
  assert (short['turns'], long['turns']) == (50, 200)
  assert short['programs'] == long['programs']
  assert short['generation'] == long['generation'] <= 12
