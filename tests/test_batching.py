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
  columns = batching.Columns(np.array([1.0, 2.0, 3.0]), table, -table)
  parts, (short, long) = batching.pack(
    turns, columns, np.array([1, 2, 0]), SHAPES, 4
  )
  assert [part.tolist() for part in parts] == [[0], [1, 2]]
  assert short.tokens.shape == (4, 4 + 3) and long.tokens.shape == (4, 8 + 3)
  assert short.tokens[0].tolist() == [0, 1, 2, 3, 50, 51, 0]
  assert short.valid[0].tolist() == [False] + [True] * 5 + [False]
  assert short.mask.tolist() == [True, False, False, False]
  assert short.choices.shape == (4, 4, 3)  # three choices
  assert short.choices[0, 0].tolist() == [50, 51, -1]
  assert (long.choices == -1).all()
  assert long.tokens[1, :8].tolist() == list(range(13, 21))  # newest tokens
  assert long.advantages.tolist() == [2, 3, 0, 0]
  np.testing.assert_array_equal(long.old_log_probs[:2], table[[1, 2]])
  np.testing.assert_array_equal(long.ref_log_probs[:2], -table[[1, 2]])


def test_what_does_not_fit_is_told():
  with pytest.raises(ValueError, match='choice_buckets=.2, 4.: add a larger'):
    SHAPES.choice_width(5)
  assert [SHAPES.choice_width(n) for n in (0, 1, 3)] == [0, 2, 4]
  with pytest.raises(ValueError, match='prompt_buckets is .8, 4.'):
    batching.Shapes(prompt=(8, 4), reply=3, choices=(2,), micro=2)


@pytest.mark.parametrize('rows, size', [(1, 4), (10, 4), (17, 8)])
def test_minibatches_hold_every_row_once_in_even_parts(rows, size):
  parts = batching.minibatches(rows, size, (0, 1))
  assert sorted(np.concatenate(parts)) == list(range(rows))
  assert max(map(len, parts)) <= size
  assert max(map(len, parts)) - min(map(len, parts)) <= 1
