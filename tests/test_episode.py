"""GRPO and RLOO: numbers by hand, and what counts as a member."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hgpo_jax.advantages import Rows, episode

OPTIONS = 'count', 'singleton'
grpo = jax.jit(episode.grpo, static_argnames=('normalisation', 'std', *OPTIONS))
rloo = jax.jit(episode.rloo, static_argnames=OPTIONS)


def one_task(scores, lengths=None):
  """Rows of one task: episode i has lengths[i] turns (1 by default)."""
  lengths = lengths or [1] * len(scores)
  traj = np.repeat(np.arange(len(scores)), lengths)
  turn = np.concatenate([np.arange(length) for length in lengths])
  score = jnp.asarray(np.repeat(scores, lengths), jnp.float32)
  return Rows(
    task=jnp.zeros(len(traj), jnp.int32),
    traj=jnp.asarray(traj, jnp.int32),
    turn=jnp.asarray(turn, jnp.int32),
    obs=jnp.asarray(turn, jnp.int32),
    act=jnp.zeros(len(traj), jnp.int32),
    episode_return=score,
    returns=score,
    mask=jnp.ones(len(traj), bool),
  )


def test_hand_numbers():
  rows = one_task([1.0, 0.0, 0.0, 1.0])
  signs = np.array([1, -1, -1, 1])
  np.testing.assert_allclose(grpo(rows), 0.866024 * signs, atol=1e-6)
  np.testing.assert_allclose(rloo(rows), 0.666667 * signs, atol=1e-6)
  for std, scale in (('population', 0.5), ('sample', 0.57735027)):
    np.testing.assert_allclose(
      grpo(rows, std=std), 0.5 * signs / scale, atol=1e-5
    )
  np.testing.assert_array_equal(grpo(rows, normalisation='mean'), 0.5 * signs)


def test_rows_weigh_an_episode_by_its_length_and_trajectories_do_not():
  rows = one_task([1.0, 0.0], lengths=[3, 1])
  by_rows = grpo(rows, normalisation='mean', count='rows')
  np.testing.assert_allclose(by_rows, [0.25, 0.25, 0.25, -0.75], atol=1e-6)
  once = grpo(rows, normalisation='mean', count='trajectories')
  np.testing.assert_allclose(once, [0.5, 0.5, 0.5, -0.5], atol=1e-6)
  left_out = rloo(rows)  # each against the other episode alone
  np.testing.assert_allclose(left_out, [1, 1, 1, -1], atol=1e-6)
  one_row_out = rloo(rows, count='rows')
  np.testing.assert_allclose(one_row_out, [1 / 3, 1 / 3, 1 / 3, -1], atol=1e-6)


@pytest.mark.parametrize('fn', [grpo, rloo])
def test_a_group_of_one_follows_the_rule_that_was_chosen(fn):
  rows = one_task([3.0], lengths=[2])
  options = {'count': 'trajectories'}
  np.testing.assert_array_equal(fn(rows, singleton='zero', **options), 0)
  np.testing.assert_array_equal(fn(rows, singleton='raw', **options), 3)


@pytest.mark.parametrize('options', [{'count': 'tokens'}, {'singleton': 'one'}])
def test_unknown_names_are_refused(options):
  with pytest.raises(ValueError, match='expected'):
    rloo(one_task([1.0, 0.0]), **options)
