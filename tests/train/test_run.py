"""What a run is made of: warm starts, their cache, the control."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.configs import base, toy
from hgpo_jax.train import batching, checkpoint, loop, warm_start
from hgpo_jax.train import policy as policy_lib
from hgpo_jax.train import run as run_lib
from hgpo_jax.types import ConfigError


def config(**changes):
  c = toy.get_config().unlock()
  c.update_from_flattened_dict(
    {name.replace('__', '.'): value for name, value in changes.items()}
  )
  return base.freeze(c)


def start(folder, **changes):
  c = config(**changes)
  with loop.open_environments(c) as environments:
    return warm_start.warm_start(c, environments, folder)


CLONED = {
  'warmstart__games': 60,
  'warmstart__epochs': 12,
  'warmstart__minibatch_turns': 32,
  'warmstart__learning_rate': 1e-2,
}


def test_cloning_learns_the_expert_and_is_made_once(tmp_path, capsys):
  c = config(**CLONED)
  with loop.open_environments(c) as environments:
    run, first = warm_start.warm_start(c, environments, tmp_path / 'a')
    played = run.rollout(first, 0)
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
  run, params = start(tmp_path / 'run')
  played = run.rollout(params, 0)
  seed = (0, run_lib.ORDER, 0)
  values = [
    loop.Learner(c, run.policy.score(1.0), run.policy.shapes).advantages(
      played, seed
    )
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
  with loop.open_environments(c) as environments:
    run, params = warm_start.warm_start(c, environments, tmp_path / 'run')
    turns = [turn for t in run.rollout(params, 0) for turn in t.turns]
  score = run.policy.score(run.sampling.scored_temperature)
  learner = loop.Learner(c, score, run.policy.shapes)
  scored = learner.log_probs(params, turns)
  sampled = batching.sampled_log_probs(turns, run.policy.shapes.reply)
  assert np.count_nonzero(sampled)
  assert np.abs(np.expm1(scored - sampled)).max() < 1e-5  # the ratio is 1
  # The reference is the policy itself: k3 is 0.
  assert np.array_equal(scored, learner.log_probs(params, turns))


def test_server_processes_give_the_trajectories_of_the_inline_world(tmp_path):
  episodes = []
  for servers in (0, 2):
    c = config(env__servers=servers)
    with loop.open_environments(c) as environments:
      run, params = warm_start.warm_start(c, environments, tmp_path / 'run')
      episodes.append(run.rollout(params, 3))
  for a, b in zip(*episodes, strict=True):
    assert (a.task, a.won) == (b.task, b.won)
    assert [t.action for t in a.turns] == [t.action for t in b.turns]


def test_groups_that_cannot_teach_are_replaced(tmp_path):
  plain, filtered = config(), config(rollout__max_groups=12)
  with loop.open_environments(plain) as environments:
    run, params = warm_start.warm_start(plain, environments, tmp_path / 'a')
    first = run.rollout(params, 0)
    assert run.teaching(first) is first
    run, params = warm_start.warm_start(filtered, environments, tmp_path / 'a')
    played = run.rollout(params, 0)
  size, wanted = plain.rollout.group_size, plain.rollout.groups
  groups = [played[i : i + size] for i in range(0, len(played), size)]
  assert wanted < len(groups) <= 12  # a random policy fails whole groups
  # The first round is that of a run without the filter.
  assert [t.task for t in played[: len(first)]] == [t.task for t in first]
  assert len({group[0].task for group in groups}) == len(groups)
  mixed = [g for g in groups if len({t.won for t in g}) > 1]
  assert run.teaching(played) == [t for g in mixed[:wanted] for t in g]
  alike = [next(t for t in played if not t.won)] * (size * (wanted + 1))
  assert run.teaching(alike) == alike[: size * wanted]  # none can teach


def test_no_two_rounds_of_play_share_a_key(tmp_path, monkeypatch):
  c = config(
    rollout__groups=4,
    rollout__max_groups=64,
    eval__games=1,
    eval__splits=('train', 'valid'),
    eval__temperatures=(1.0, 0.4),
    eval__seeds=(0, 7),  # the first is the run's own
  )
  with loop.open_environments(c) as environments:
    run, params = warm_start.warm_start(c, environments, tmp_path / 'run')
    lost = next(t for t in run.rollout(params, 0) if not t.won)
    keys = []

    def play(params, episodes, key, sampling):
      keys.append(key)
      return [dataclasses.replace(lost, task=task) for task in episodes]

    monkeypatch.setattr(run, '_play', play)
    run.rollout(params, 0)
    run.rollout(params, 1)
    assert len(keys) == 2 * 3  # a round, and two more as nobody wins
    run.evaluate(params)
  assert len(keys) == 2 * 3 + 2 * 2 * 2
  made = [jax.random.key_data(policy_lib.key_of(*key)) for key in keys]
  assert len({key.tobytes() for key in map(np.asarray, made)}) == len(keys)


def test_truncated_sampling_is_what_the_config_says(tmp_path):
  run, _ = start(tmp_path / 'run')
  assert (run.sampling.top_k, run.sampling.top_p) == (None, None)
  run, _ = start(tmp_path / 'run', sampling__top_k=3, sampling__top_p=0.5)
  assert (run.sampling.top_k, run.sampling.top_p) == (3, 0.5)


def test_a_summary_is_json_with_the_counts(tmp_path):
  summary = loop.train(
    config(iterations=1, checkpoint__every=0), tmp_path / 'run'
  )
  assert json.loads((tmp_path / 'run' / 'summary.json').read_text()) == summary
  result = summary['final']['train']['1.0']
  assert result['games'] == 12 and 0 <= result['success'] <= 1
  assert set(summary['seconds']) == {
    'warm_start', 'evaluation', 'rollout', 'update'}  # fmt: skip
