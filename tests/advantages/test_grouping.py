"""Level ids against tuples in a dictionary."""

import jax
import numpy as np
import pytest

from hgpo_jax.advantages import grouping, intern_within, pad
from tests import references, workloads

level_ids = jax.jit(grouping.level_ids, static_argnames='depth')
history = jax.jit(grouping.history, static_argnames='depth')
following = jax.jit(grouping.following)


context_ids = jax.jit(
  grouping.context_ids, static_argnames=('depth', 'contexts')
)


def ids_of(rows, depth, contexts='states'):
  ids = context_ids(pad(rows, 80), depth=depth, contexts=contexts)
  return np.asarray(ids)[:, : len(rows.mask)]


@pytest.mark.parametrize('contexts', ['states', 'states_actions'])
@pytest.mark.parametrize('depth', [0, 4])
@pytest.mark.parametrize('seed', [0, 1])
def test_level_ids_join_just_the_rows_of_equal_histories(seed, depth, contexts):
  rows = workloads.random_trajectories(seed, observations=3, padding=5)
  ids = ids_of(rows, depth, contexts)
  assert ids.shape == (depth + 1, len(rows.mask))
  assert ids.dtype == np.int32
  for k, keys in enumerate(
    references.level_keys(rows, depth=depth, contexts=contexts)
  ):
    np.testing.assert_array_equal(ids[k] < 0, [key is None for key in keys])
    pairs = {(key, i) for key, i in zip(keys, ids[k], strict=True) if key}
    distinct = {key for key in keys if key}
    assert len(pairs) == len(distinct)
    assert {i for _, i in pairs} == set(range(len(distinct)))


def test_a_deeper_level_only_splits_groups():
  ids = ids_of(workloads.random_trajectories(2), 4)
  for shallow, deep in zip(ids, ids[1:], strict=False):
    real = deep >= 0
    pairs = set(zip(deep[real], shallow[real], strict=True))
    assert len(pairs) == len(set(deep[real]))


def test_a_revisit_in_one_episode_is_a_member_and_a_gap_ends_the_history():
  same = np.zeros(4, np.int32)
  turn = np.array([3, 0, 4, 1])  # turn 2 is missing
  obs = np.array([1, 1, 2, 2])
  ids = level_ids(same, same, turn, obs, same == 0, depth=1)
  np.testing.assert_array_equal(ids[0], [0, 0, 1, 1])
  np.testing.assert_array_equal(ids[1], [-1, -1, 0, 0])


def test_history_reads_back_the_observations():
  rows = workloads.random_trajectories(3, padding=4)
  past = history(rows.traj, rows.turn, rows.obs, rows.mask, depth=2)
  seen = {
    (rows.traj[n], rows.turn[n]): rows.obs[n] for n in np.flatnonzero(rows.mask)
  }
  for n in np.flatnonzero(rows.mask):
    for k in range(3):
      expected = seen.get((rows.traj[n], rows.turn[n] - k), -1)
      assert past[k, n] == expected
  np.testing.assert_array_equal(past[:, ~rows.mask], -1)


def test_first_of_trajectory_marks_one_row_each():
  rows = workloads.random_trajectories(4, padding=4)
  first = grouping.first_of_trajectory(rows.traj, rows.turn, rows.mask)
  np.testing.assert_array_equal(first, rows.mask & (rows.turn == 0))


def test_following_reads_the_next_observation():
  rows = workloads.random_trajectories(5, padding=4)
  gap = rows.replace(mask=rows.mask & (rows.turn != 2))  # as if it were an end
  for batch in (rows, gap):
    found = following(batch.traj, batch.turn, batch.obs, batch.mask)
    seen = {
      (batch.traj[n], batch.turn[n]): batch.obs[n]
      for n in np.flatnonzero(batch.mask)
    }
    for n in range(len(batch.mask)):
      expected = seen.get((batch.traj[n], batch.turn[n] + 1), -1)
      assert found[n] == (expected if batch.mask[n] else -1)


LONG = 'You see a mug 1, a plate 2 and a soap bar 3 on the shelf.'
NEAR = LONG.replace('mug 1', 'mug 4')
FAR = LONG.replace('mug 1, a plate 2', 'pan 1')


def test_similar_texts_of_a_task_are_one_observation():
  texts = [LONG, FAR, NEAR, LONG, NEAR, FAR]
  task = [0, 0, 0, 0, 1, 1]
  ids = grouping.similar_ids(texts, task, 0.95)
  np.testing.assert_array_equal(ids, [0, 1, 0, 0, 0, 1])
  assert ids.dtype == np.int32
  # One is exact equality.
  ids = grouping.similar_ids(texts, task, 1)
  np.testing.assert_array_equal(ids, intern_within(task, texts))


def test_a_cluster_is_known_by_its_founder():
  chain = ['abcdefgh', 'abcdefgX', 'abcdefYX']  # neighbours differ by 1 of 8
  ids = grouping.similar_ids(chain, [0] * 3, 0.87)
  np.testing.assert_array_equal(ids, [0, 0, 1])
  ids = grouping.similar_ids(chain[1:] + chain[:1], [0] * 3, 0.87)
  np.testing.assert_array_equal(ids, [0, 0, 0])


def test_a_threshold_out_of_range_is_refused():
  with pytest.raises(ValueError, match='exact equality'):
    grouping.similar_ids(['a'], [0], 95)
