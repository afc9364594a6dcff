"""PPO on the guessing world: its critic, its policy, and what is saved."""

import contextlib
import dataclasses
import shutil

import jax
import numpy as np
import pytest

from hgpo_jax import types
from hgpo_jax.train import (
  checkpoint,
  config_checks,
  loop,
  packing,
  progress,
  warm_start,
  worlds,
)
from hgpo_jax.train import learner as learner_lib
from hgpo_jax.train.actor import Actor
from hgpo_jax.train.compilations import Compilations
from hgpo_jax.types import ConfigError
from tests import runs
from tests.runs import records

ALONE, SAVED, END = 25, 83, 85  # iterations: the critic alone, then both


def config(**changes):
  plain = {
    'algo__estimator': 'ppo',
    'algo__ppo__critic_learning_rate': 1e-2,
    'eval__games': -1,
  }
  return runs.config(**{**plain, **changes})


@pytest.fixture(scope='module')
def history(tmp_path_factory):
  """One run through all its moments: everything is compiled once."""
  folder = tmp_path_factory.mktemp('runs') / 'ppo'
  c = config(algo__ppo__critic_warmup=ALONE)
  found = {'scalars': [], 'episodes': []}
  with worlds.open_environments(c) as environments:
    policy, found['start'] = warm_start.warm_start(c, environments, folder)
    actor = Actor(environments, policy)
    learner = learner_lib.make_learner(policy, actor.sampling)

    def begun():
      return policy.init_state(
        found['start'], learner.optimizer, learner.critic_optimizer
      )

    def played(state, steps):
      for step in steps:
        made = actor.rollout(state.params, step)
        state, seen = learner.update(state, found['start'], made, (0, step))
        found['episodes'].append(made)
        found['scalars'].append(seen)
      return state

    state = played(begun(), range(ALONE))
    found['alone'] = jax.device_get((state.params, state.step))
    found['guesses'] = guesses(policy, learner, state, found['episodes'][-1])
    state = played(state, range(ALONE, SAVED))
    store = checkpoint.Checkpoints(folder / 'checkpoints')
    store.save(SAVED, progress.tree_of(state), {})
    with Compilations() as late:
      found['end'] = jax.device_get(played(state, range(SAVED, END)))
    found['late'] = late.count
    fresh = begun()
    again = progress.restored(store, progress.freed(fresh))
    found['freed'] = (fresh.params, fresh.opt_state, fresh.critic.params)
    found['resumed'] = jax.device_get(played(again, range(SAVED, END)))
    store.close()
  return found


def guesses(policy, learner, state, made):
  """The critic's value of each turn, `[n]`."""
  turns = [turn for t in made for turn in t.turns]
  minibatches = learner._minibatches(
    packing.flatten(turns, policy.shapes), (0,)
  )
  return learner._estimator.estimate(made, state, minibatches).values[:, 0]


def situation(trajectory, number):
  """What an optimal guess of a turn's value depends on."""
  if not number:
    return 'first'
  return trajectory.turns[1].observation.split('.')[0]  # 'Right' or 'Wrong'


def test_a_critic_alone_learns_what_the_policy_will_get(history):
  """It is asked about the last of the episodes that it learned from."""
  params, step = history['alone']
  jax.tree.map(np.testing.assert_array_equal, params, history['start'])
  assert int(step) == 0
  returns, values = {}, {}
  for made in history['episodes'][:ALONE]:
    for t in made:
      for number in range(2):
        worth = 10 * 0.95 ** (1 - number) * t.won
        returns.setdefault(situation(t, number), []).append(worth)
  last = history['episodes'][ALONE - 1]
  places = [(t, number) for t in last for number in range(2)]
  for place, value in zip(places, history['guesses'], strict=True):
    values.setdefault(situation(*place), []).append(value)
  assert np.mean(returns['Wrong']) == 0
  assert np.mean(returns['Right']) > 1.5
  for name, found in values.items():
    assert np.mean(found) == pytest.approx(np.mean(returns[name]), abs=0.6)
  scalars = history['scalars']
  assert all('policy_loss' not in s for s in scalars[:ALONE])
  assert all('policy_loss' in s for s in scalars[ALONE:])


def test_ppo_learns_and_has_not_moved_before_its_first_step(history):
  won = [t.won for made in history['episodes'][END - 8 : END] for t in made]
  assert np.mean(won) >= 0.9
  moved = history['scalars'][ALONE:]
  assert max(s['first_ratio_error'] for s in moved) < 1e-5
  assert moved[0]['first_kl_ref'] < 1e-9
  assert all(np.isfinite(s['value_loss']) for s in history['scalars'])
  assert history['late'] == 0  # compilations


def test_a_resumed_critic_goes_on_bit_for_bit(history):
  jax.tree.map(
    np.testing.assert_array_equal, history['resumed'], history['end']
  )
  assert int(history['end'].critic.step) > int(history['end'].step) > 0
  resumed = history['scalars'][END:]
  assert resumed == history['scalars'][SAVED:END]
  # Two states might not fit; the reference was read on the way here.
  assert all(x.is_deleted() for x in jax.tree.leaves(history['freed']))


def test_a_checkpoint_without_a_critic_is_as_it_always_was(tmp_path):
  """Four entries; and it is not taken for one with a critic."""
  number = jax.numpy.int32(7)
  state = types.TrainState({'w': number}, {'m': number}, number, {'f': number})
  fields = {'params': state.params, 'opt_state': state.opt_state}
  with contextlib.closing(checkpoint.Checkpoints(tmp_path)) as store:
    store.save(0, {**fields, 'step': number, 'frozen': {}}, {})
    found = progress.restored(store, state)
    assert found == state
    with pytest.raises(checkpoint.CheckpointError, match='critic/params/w'):
      progress.restored(store, dataclasses.replace(state, critic=state))


def test_options_that_do_not_exist_are_refused():
  for changes, match in (
    ({'algo__ppo__level': 'word'}, "algo.ppo.level is 'word'"),
    ({'algo__ppo__lam': 1.5}, 'algo.ppo.lam is 1.5'),
    ({'algo__ppo__value_clip': 0.0}, 'algo.ppo.value_clip is 0.0'),
    ({'algo__ppo__critic_warmup': -1}, 'algo.ppo.critic_warmup is -1'),
    (
      {'algo__ppo__lambda': 1.0},
      "'algo.ppo.lambda'; did you mean algo.ppo",
    ),
  ):
    with pytest.raises(ConfigError, match=match):
      config_checks.check(config(**changes))


def whole_and_resumed(folder, back, **changes):
  """The records of a run, and of the same run stopped `back` saves earlier."""
  whole, parts = folder / 'whole' / 'run', folder / 'parts' / 'run'
  loop.train(config(**changes), whole)
  shutil.copytree(whole, parts)
  steps = sorted((parts / 'checkpoints').iterdir(), key=lambda p: int(p.name))
  for path in steps[-back:]:
    shutil.rmtree(path)
  loop.train(config(**changes), parts, resume=True)
  return whole, records(whole), records(parts)


@pytest.mark.slow
def test_values_of_tokens_learn_too_and_resume(tmp_path):
  _, whole, parts = whole_and_resumed(
    tmp_path, 1, algo__ppo__level='token', checkpoint__every=30
  )
  assert np.mean([r['rollout/success'] for r in whole[-8:]]) >= 0.9
  assert parts == whole


@pytest.mark.slow
def test_a_critic_of_adapters_on_a_mesh(tmp_path):
  """What one device computes; the frozen params are saved nowhere."""
  changes = {
    'policy__lora__rank': 4,
    'optim__moments_dtype': 'bfloat16',
    'checkpoint__every': 1,
    'iterations': 3,
  }
  mesh = {'mesh__data': 2, 'mesh__fsdp': 2, 'mesh__tensor': 2}
  folder, whole, parts = whole_and_resumed(tmp_path, 2, **changes, **mesh)
  assert parts == whole
  single = tmp_path / 'single' / 'run'
  loop.train(config(**changes), single)
  for a, b in zip(whole, records(single), strict=True):
    assert a == pytest.approx(b, rel=1e-3, abs=1e-4, nan_ok=True)
  with checkpoint.opened(folder / 'checkpoints') as store:
    saved = [name for name in store.meta()['checksums'] if 'critic/' in name]
  assert not any('frozen' in name for name in saved)
  own = [name for name in saved if name.startswith('critic/params')]
  assert all('lora' in name or 'value_head' in name for name in own)
  assert 'critic/params/value_head' in own
