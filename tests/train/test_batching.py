"""Rows of the estimators and mini-batches against the trajectories."""

import numpy as np
import pytest

from hgpo_jax import types
from hgpo_jax.advantages import check
from hgpo_jax.train import batching


def turn(prompt, reply, observation='o', reward=0.0, valid=True):
  return types.Turn(
    prompt=np.arange(1, prompt + 1, dtype=np.int32),
    reply=np.arange(50, 50 + reply, dtype=np.int32),
    log_probs=-np.ones(reply, np.float32),
    choices=(),
    observation=observation,
    action='a',
    valid=valid,
    reward=reward,
  )


def trajectory(task, *turns):
  return types.Trajectory(task, turns, won=False, truncated=False)


def test_estimator_rows_discount_and_penalise_only_the_row_itself():
  rows = batching.estimator_rows(
    [
      trajectory('a', turn(2, 1, 's'), turn(2, 1, 'x', 1.0)),
      trajectory('a', turn(2, 1, 's', valid=False), turn(2, 1, 'y')),
      trajectory('b', turn(2, 1, 's')),
    ],
    gamma=0.5,
    reward_scale=10.0,
    invalid_penalty=0.1,
    multiple=8,
  )
  assert np.asarray(rows.mask).tolist() == [True] * 5 + [False] * 3
  np.testing.assert_array_equal(rows.task[:5], [0, 0, 0, 0, 1])
  np.testing.assert_array_equal(rows.traj[:5], [0, 0, 1, 1, 2])
  np.testing.assert_array_equal(rows.turn[:5], [0, 1, 0, 1, 0])
  np.testing.assert_array_equal(rows.obs[:5], [0, 1, 0, 2, 0])
  np.testing.assert_array_equal(rows.act[:5], 0)  # the same reply
  np.testing.assert_allclose(rows.returns[:5], [5, 10, -0.1, 0, 0], atol=1e-6)
  np.testing.assert_allclose(
    rows.episode_return[:5], [10, 10, -0.1, 0, 0], atol=1e-6
  )


def ended(task, *turns, won=False, truncated=False):
  return types.Trajectory(task, turns, won, truncated)


PLAYED = [
  ended('a', turn(2, 1, 's'), turn(2, 1, 'x', 1.0), won=True),
  ended('a', turn(2, 1, 's', valid=False), turn(2, 1, 'x'), truncated=True),
  ended('b', turn(2, 1, 'x'), truncated=True),
  ended('b', turn(2, 1, 's.'), turn(2, 1, 's', valid=False)),
]


def rows_of(**options):
  return batching.estimator_rows(
    PLAYED,
    gamma=1.0,
    reward_scale=10.0,
    invalid_penalty=0.1,
    multiple=8,
    **options,
  )


def test_optional_fields_are_made_where_they_are_asked_for():
  rows = rows_of()
  assert rows.scores is None
  assert rows.outcome is None
  rows = rows_of(fields=('scores', 'outcome'))
  check(rows)
  first = [0, 2, 4, 5]  # row of each episode
  np.testing.assert_allclose(
    rows.scores[np.array(first)],
    [[10, 0, -2], [0, -0.5, -2], [0, 0, -1], [0, -0.5, -2]],
  )
  assert rows.scores.shape == (8, batching.SCORES)
  # Both were lost by the same action where they saw the same.
  np.testing.assert_array_equal(rows.outcome[:7], [0, 0, 1, 1, 1, 2, 2])


def test_similar_observations_of_a_task_count_as_one():
  exact, alike = rows_of().obs, rows_of(similarity=0.6).obs
  assert exact[5] != exact[6]
  assert alike[5] == alike[6]
  assert alike[0] == alike[2] != alike[1] == alike[3]
  assert alike[4] == alike[0] == 0  # each task counts its own
  np.testing.assert_array_equal(exact, rows_of(similarity=1.0).obs)


def test_rewards_of_turns_and_which_were_cut_short():
  np.testing.assert_allclose(
    batching.turn_rewards(PLAYED, 10.0, 0.1), [0, 10, -0.1, 0, 0, 0, -0.1]
  )
  assert np.flatnonzero(batching.cut_short(PLAYED)).tolist() == [3, 4]
  owner, number = batching.places(PLAYED)
  assert owner.tolist() == [0, 0, 1, 1, 2, 3, 3]
  assert number.tolist() == [0, 1, 0, 1, 0, 0, 1]


@pytest.mark.parametrize(('rows', 'size'), [(1, 4), (10, 4), (17, 8)])
def test_minibatches_hold_every_row_once_in_even_parts(rows, size):
  parts = batching.minibatches(rows, size, (0, 1))
  assert sorted(np.concatenate(parts)) == list(range(rows))
  assert max(map(len, parts)) <= size
  assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_sampled_log_probs_are_padded_with_0():
  table = batching.sampled_log_probs([turn(2, 1), turn(2, 3)], 3)
  np.testing.assert_array_equal(table, [[-1, 0, 0], [-1, -1, -1]])
