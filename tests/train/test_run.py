"""What a run is made of: warm starts, their cache, the control."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from hgpo_jax import random_streams
from hgpo_jax.train import batching, checkpoint, loop, warm_start, worlds
from hgpo_jax.train import policy as policy_lib
from hgpo_jax.train.actor import Actor
from hgpo_jax.train.learner import Learner
from hgpo_jax.types import ConfigError
from tests.runs import config


def start(folder, **changes):
  c = config(**changes)
  with worlds.open_environments(c) as environments:
    policy, params = warm_start.warm_start(c, environments, folder)
    return Actor(environments, policy), params


CLONED = {
  'warmstart__games': 60,
  'warmstart__epochs': 12,
  'warmstart__minibatch_turns': 32,
  'warmstart__learning_rate': 1e-2,
}


def test_cloning_learns_the_expert_and_is_made_once(tmp_path, capsys):
  c = config(**CLONED)
  with worlds.open_environments(c) as environments:
    policy, first = warm_start.warm_start(c, environments, tmp_path / 'a')
    played = Actor(environments, policy).rollout(first, 0)
    assert np.mean([t.won for t in played]) > 0.9
    _, again = warm_start.warm_start(c, environments, tmp_path / 'b')
  assert 'from' in capsys.readouterr().out
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert len(list((tmp_path / 'cache').iterdir())) == 1
  start(tmp_path / 'c', **{**CLONED, 'sampling__temperature': 0.5})
  assert len(list((tmp_path / 'cache').iterdir())) == 1  # does not depend on it
  start(tmp_path / 'd', **{**CLONED, 'seed': 1})
  assert len(list((tmp_path / 'cache').iterdir())) == 2


def test_a_runs_own_warm_start_outlives_the_cache(tmp_path):
  _, first = start(tmp_path / 'run')
  for path in (tmp_path / 'cache').rglob('*'):
    if path.is_file():
      path.write_text('gone')
  _, again = start(tmp_path / 'run')
  jax.tree.map(np.testing.assert_array_equal, first, again)
  with pytest.raises(checkpoint.CheckpointError, match='other settings'):
    start(tmp_path / 'run', policy__width=64)


def test_a_resumed_run_may_be_packed_otherwise(tmp_path):
  _, first = start(tmp_path / 'run')
  _, again = start(tmp_path / 'run', optim__row_turns=8)
  jax.tree.map(np.testing.assert_array_equal, first, again)


def test_nothing_to_clone_is_told(tmp_path):
  with pytest.raises(ConfigError, match='nothing to clone.*max_reply'):
    start(tmp_path / 'run', warmstart__games=4, warmstart__noise=1.0)


def test_phrases_start_as_the_sum_of_their_words():
  embed = jax.random.normal(jax.random.key(0), (6, 4))
  rows = policy_lib.composed(embed, {5: [0, 3], 4: [1]})
  np.testing.assert_allclose(rows[5], (embed[0] + embed[3]) / 2**0.5, rtol=1e-6)
  np.testing.assert_array_equal(rows[:4], embed[:4])
  np.testing.assert_array_equal(rows[4], embed[1])


def test_shuffled_advantages_are_the_same_numbers_on_other_rows(tmp_path):
  actor, params = start(tmp_path / 'run')
  played = actor.rollout(params, 0)
  seed = random_streams.update_seed(0, 0)
  score, shapes = actor.policy.score(1.0), actor.policy.shapes
  values = [
    Learner(c, score, shapes).advantages(played, seed)
    for c in (config(), config(algo__shuffle_advantages=True))
  ]
  assert np.count_nonzero(values[0])
  assert (values[0] != values[1]).any()
  np.testing.assert_array_equal(np.sort(values[0]), np.sort(values[1]))


@pytest.mark.parametrize('constrained', [True, False])
@pytest.mark.parametrize('temperature', [1.0, 0.4])
def test_scoring_gives_every_token_the_log_prob_it_was_sampled_with(
  tmp_path, temperature, constrained
):
  c = config(sampling__temperature=temperature, env__constrained=constrained)
  with worlds.open_environments(c) as environments:
    policy, params = warm_start.warm_start(c, environments, tmp_path / 'run')
    actor = Actor(environments, policy)
    turns = [turn for t in actor.rollout(params, 0) for turn in t.turns]
  score = policy.score(actor.sampling.scored_temperature)
  learner = Learner(c, score, policy.shapes)
  scored = learner.log_probs(params, turns)
  sampled = batching.sampled_log_probs(turns, policy.shapes.reply)
  assert np.count_nonzero(sampled)
  assert np.abs(np.expm1(scored - sampled)).max() < 1e-5  # the ratio is 1
  # The reference is the policy itself: k3 is 0.
  assert np.array_equal(scored, learner.log_probs(params, turns))


def test_server_processes_give_the_trajectories_of_the_inline_world(tmp_path):
  episodes = []
  for servers in (0, 2):
    c = config(env__servers=servers)
    with worlds.open_environments(c) as environments:
      policy, params = warm_start.warm_start(c, environments, tmp_path / 'run')
      episodes.append(Actor(environments, policy).rollout(params, 3))
  for a, b in zip(*episodes, strict=True):
    assert (a.task, a.won) == (b.task, b.won)
    assert [t.action for t in a.turns] == [t.action for t in b.turns]


def test_uninformative_groups_are_replaced(tmp_path):
  plain, filtered = config(), config(rollout__max_groups=12)
  with worlds.open_environments(plain) as environments:
    policy, params = warm_start.warm_start(plain, environments, tmp_path / 'a')
    actor = Actor(environments, policy)
    first = actor.rollout(params, 0)
    assert actor.selected(first) is first
    policy, _ = warm_start.warm_start(filtered, environments, tmp_path / 'a')
    actor = Actor(environments, policy)
    played = actor.rollout(params, 0)
  size, wanted = plain.rollout.group_size, plain.rollout.groups
  groups = [played[i : i + size] for i in range(0, len(played), size)]
  assert wanted < len(groups) <= 12  # a random policy fails whole groups
  # The first round is that of a run without the filter.
  assert [t.task for t in played[: len(first)]] == [t.task for t in first]
  assert len({group[0].task for group in groups}) == len(groups)
  mixed = [g for g in groups if len({t.won for t in g}) > 1]
  assert actor.selected(played) == [t for g in mixed[:wanted] for t in g]
  alike = [next(t for t in played if not t.won)] * (size * (wanted + 1))
  assert actor.selected(alike) == alike[: size * wanted]  # none is informative


def test_no_two_rounds_of_play_share_a_key(tmp_path, monkeypatch):
  c = config(
    rollout__groups=4,
    rollout__max_groups=64,
    eval__games=1,
    eval__splits=('train', 'valid'),
    eval__temperatures=(1.0, 0.4),
    eval__seeds=(0, 7),  # the first is the run's own
  )
  with worlds.open_environments(c) as environments:
    policy, params = warm_start.warm_start(c, environments, tmp_path / 'run')
    actor = Actor(environments, policy)
    lost = next(t for t in actor.rollout(params, 0) if not t.won)
    keys = []

    def play(params, tasks, sampling, key):
      keys.append(key)
      return [dataclasses.replace(lost, task=task) for task in tasks]

    monkeypatch.setattr(actor, 'play', play)
    actor.rollout(params, 0)
    actor.rollout(params, 1)
    assert len(keys) == 2 * 3  # a round, and two more as nobody wins
    actor.evaluate(params)
  assert len(keys) == 2 * 3 + 2 * 2 * 2
  made = [jax.random.key_data(random_streams.key(*key)) for key in keys]
  assert len({key.tobytes() for key in map(np.asarray, made)}) == len(keys)


def test_truncated_sampling_is_what_the_config_says(tmp_path):
  sampling = start(tmp_path / 'run')[0].sampling
  assert (sampling.top_k, sampling.top_p) == (None, None)
  changes = {'sampling__top_k': 3, 'sampling__top_p': 0.5}
  sampling = start(tmp_path / 'run', **changes)[0].sampling
  assert (sampling.top_k, sampling.top_p) == (3, 0.5)


def test_a_summary_is_json_with_the_counts(tmp_path):
  summary = loop.train(
    config(iterations=1, checkpoint__every=0), tmp_path / 'run'
  )
  assert json.loads((tmp_path / 'run' / 'summary.json').read_text()) == summary
  result = summary['final']['train']['1.0']
  assert result['games'] == 12
  assert 0 <= result['success'] <= 1
  assert set(summary['seconds']) == {
    'warm_start', 'evaluation', 'rollout', 'update'}  # fmt: skip
