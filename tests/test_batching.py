"""Rows and batches against what the trajectories say."""

import numpy as np
import pytest

from hgpo_jax import types
from hgpo_jax.train import batching

SHAPES = batching.Shapes(prompt=(4, 8), reply=3, choices=(2, 4), micro=2)


def turn(prompt, reply, observation='o', reward=0.0, valid=True, choices=()):
  return types.Turn(
    prompt=np.arange(1, prompt + 1, dtype=np.int32),
    reply=np.arange(50, 50 + reply, dtype=np.int32),
    log_probs=-np.ones(reply, np.float32),
    choices=choices,
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
  np.testing.assert_allclose(rows.returns[:5], [5, 10, -0.1, 0, 0], atol=1e-6)
  np.testing.assert_allclose(
    rows.episode_return[:5], [10, 10, -0.1, 0, 0], atol=1e-6
  )


def test_pack_pads_prompts_left_and_replies_right():
  turns = [turn(3, 2, choices=((50, 51), (9,), (8,))), turn(6, 3), turn(20, 1)]
  table = np.arange(9, dtype=np.float32).reshape(3, 3)
  batch = batching.pack(
    turns, np.array([1.0, 2.0, 3.0]), table, -table, np.array([1, 0]), SHAPES, 4
  )
  assert batch.tokens.shape == (4, 8 + 3)
  assert batch.tokens[1].tolist() == [0] * 5 + [1, 2, 3, 50, 51, 0]
  assert batch.valid[1].tolist() == [False] * 5 + [True] * 5 + [False]
  assert batch.choices.shape == (4, 4, 3)  # three choices
  assert batch.choices[1, 0].tolist() == [50, 51, -1]
  assert (batch.choices[0] == -1).all()
  assert batch.mask.tolist() == [True, True, False, False]
  assert batch.advantages.tolist() == [2, 1, 0, 0]
  np.testing.assert_array_equal(batch.ref_log_probs[:2], table[[1, 0]])
  np.testing.assert_array_equal(batch.old_log_probs[:2], -table[[1, 0]])
  small = batching.pack(
    turns, np.ones(3), table, table, np.array([0]), SHAPES, 2
  )
  assert small.tokens.shape == (2, 4 + 3)
  long = batching.pack(
    turns, np.ones(3), table, table, np.array([2]), SHAPES, 2
  )
  assert long.tokens[0, :8].tolist() == list(range(13, 21))  # newest tokens


@pytest.mark.parametrize('rows, size', [(1, 4), (10, 4), (17, 8)])
def test_minibatches_hold_every_row_once_in_even_parts(rows, size):
  lengths = np.random.default_rng(0).integers(1, 9, rows)
  parts = list(batching.minibatches(lengths, size, (0, 1)))
  assert sorted(np.concatenate(parts)) == list(range(rows))
  assert max(map(len, parts)) <= size
  assert max(map(len, parts)) - min(map(len, parts)) <= 1
  for part in parts:
    assert (np.diff(lengths[part]) >= 0).all()
