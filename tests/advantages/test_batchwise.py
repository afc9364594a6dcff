"""What is scaled by the whole batch: numbers by hand, and identities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hgpo_jax.advantages import batchwise, episode
from tests import workloads

TWO_TASKS = workloads.episodes_of([1.0, 0.0, 3.0, 1.0], task=[0, 0, 1, 1])


def test_reinforce_pp_whitens_the_batch():
  actual = jax.jit(batchwise.reinforce_pp)(TWO_TASKS)
  off = np.array([-0.25, -1.25, 1.75, -0.25])  # mean 1.25
  np.testing.assert_allclose(actual, off / np.sqrt(4.75 / 3), rtol=1e-6)


def test_reinforce_pp_baseline_whitens_what_the_tasks_left():
  fn = jax.jit(batchwise.reinforce_pp_baseline, static_argnames='singleton')
  off = np.array([0.5, -0.5, 1.0, -1.0])
  np.testing.assert_allclose(fn(TWO_TASKS), off / np.sqrt(2.5 / 3), rtol=1e-6)
  alone = TWO_TASKS.replace(task=jnp.array([0, 0, 0, 1]))
  off = np.array([1.0, 0, 3, 0]) - [4 / 3, 4 / 3, 4 / 3, 0]
  scale = off.std(ddof=1)
  np.testing.assert_allclose(fn(alone), off / scale, atol=1e-6)
  off[3] = 1.0  # its own return, as the public trainers have it
  np.testing.assert_allclose(
    fn(alone, singleton='raw'),
    (off - off.mean()) / off.std(ddof=1),
    rtol=1e-5,
  )


def test_lite_ppo_takes_the_deviation_of_all_returns():
  actual = jax.jit(batchwise.lite_ppo)(TWO_TASKS)
  off = np.array([0.5, -0.5, 1.0, -1.0])
  np.testing.assert_allclose(actual, off / np.sqrt(4.75 / 3), rtol=1e-5)


def test_gdpo_keeps_apart_what_a_sum_joins():
  rows = workloads.episodes_of([0.0] * 4)
  scores = jnp.array([[1, 1], [0, 1], [0, 0], [1, 1]], jnp.float32)
  actual = jax.jit(batchwise.gdpo)(rows.replace(scores=scores))
  np.testing.assert_allclose(
    actual, [0.769094, -0.206078, -1.33211, 0.769094], atol=1e-5
  )
  summed = rows.replace(episode_return=scores.sum(1))
  np.testing.assert_allclose(
    jax.jit(episode.grpo)(summed),
    [0.783349, -0.261116, -1.305581, 0.783349],
    atol=1e-5,
  )


def test_gdpo_with_one_score_is_grpo_up_to_scale():
  one = TWO_TASKS.replace(scores=TWO_TASKS.episode_return[:, None])
  of_gdpo = jax.jit(batchwise.gdpo)(one)
  of_grpo = jax.jit(functools.partial(episode.grpo, count='trajectories'))(one)
  ratio = np.asarray(of_gdpo / of_grpo)
  np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


def test_gdpo_says_what_is_missing():
  with pytest.raises(ValueError, match='Rows.scores'):
    batchwise.gdpo(TWO_TASKS)
  with pytest.raises(ValueError, match='3 weights for 2 scores'):
    batchwise.gdpo(
      TWO_TASKS.replace(scores=jnp.ones((4, 2))), weights=(1.0, 1.0, 1.0)
    )
