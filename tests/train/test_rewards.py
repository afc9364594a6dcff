"""What is learned from, and what is told: success and the world's score."""

import dataclasses

import numpy as np

from hgpo_jax import types
from hgpo_jax.train import evaluate, rewards


def episode(task, *scores, won=False, parts=None):
  turns = tuple(
    types.Turn(
      prompt=np.zeros(2, np.int32),
      reply=np.zeros(1, np.int32),
      log_probs=np.zeros(1, np.float32),
      choices=(),
      observation='page',
      action='click',
      valid=True,
      reward=score,
    )
    for score in scores
  )
  return types.Trajectory(task, turns, won, False, parts or {})


EPISODES = [episode('a', 0.0, 0.75), episode('b', 0.0, 0.0, 1.0, won=True)]


def test_success_is_worth_one_at_the_end():
  found = [rewards.success(x) for x in EPISODES]
  assert [[u.reward for u in t.turns] for t in found] == [
    [0.0, 0.0], [0.0, 0.0, 1.0]]  # fmt: skip
  np.testing.assert_equal(  # a world that rewards success alone
    dataclasses.asdict(found[1]), dataclasses.asdict(EPISODES[1])
  )
  assert [rewards.world(x) for x in EPISODES] == EPISODES


def test_scores_are_told_beside_successes():
  result = evaluate.by_seed({7: EPISODES}, kind=str)
  assert (result['success'], result['task_score']) == (0.5, 0.875)
  assert result['by_seed']['7']['task_score'] == 0.875
  assert 'task score 0.875, mean turns 2.5' in evaluate.table(result)
  results = {'final': {'test': {'0.4': result}}}
  first, second = evaluate.comparison(results).split('task_score')
  assert first.startswith('success')
  assert '0.500' in first
  assert '0.875' in second
  same = {'final': {'test': {'0.4': {**result, 'task_score': 0.5}}}}
  assert 'task_score' not in evaluate.comparison(same)
  assert evaluate.flat_results({'test': {'0.4': result}}) == {
    'eval/test/0.4': 0.5, 'eval/test/0.4/task_score': 0.875}  # fmt: skip
  scalars = evaluate.rollout_scalars(EPISODES, rewards.success, 10.0)
  assert scalars['rollout/success'] == 0.5
  assert scalars['rollout/reward'] == 5.0  # what is learned from
  assert scalars['rollout/task_score'] == 0.875
  assert not any('reward_' in name for name in scalars)


def test_parts_are_means_over_the_episodes_that_have_them():
  played = [
    *EPISODES,  # their world tells no parts
    episode('a', 0.5, parts={'total': 0.5, 'price': 0.0, 'options': 0.25}),
    episode('a', 1.0, parts={'total': 1.0, 'price': 1.0}, won=True),
    episode('b', 0.0),  # bought nothing
  ]
  parts = {'total': 0.75, 'price': 0.5, 'options': 0.25}
  assert evaluate.reward_parts(played) == parts
  result = evaluate.summarise(played, kind=str)
  assert result['reward_parts'] == parts
  told = evaluate.table(result).splitlines()[-1]
  assert told.endswith('reward: total 0.750, price 0.500, options 0.250')
  flat = evaluate.flat_results({'test': {'0.4': result}})
  scalars = evaluate.rollout_scalars(played, rewards.world, 10.0)
  for name, mean in parts.items():
    assert flat[f'eval/test/0.4/reward_{name}'] == mean
    assert scalars[f'rollout/reward_{name}'] == mean
  assert [t.parts for t in map(rewards.success, played)] == [
    t.parts for t in played]  # fmt: skip
