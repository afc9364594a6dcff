"""Discounted returns against a loop backwards over each episode."""

import jax
import numpy as np
import pytest

from hgpo_jax import testing
from hgpo_jax.advantages import returns

discounted_returns = jax.jit(
  returns.discounted_returns, static_argnames='gamma'
)


def loop(rewards, rows, gamma):
  out = np.zeros(len(rewards))
  for n in np.flatnonzero(rows.mask):
    for m in np.flatnonzero(rows.mask & (rows.traj == rows.traj[n])):
      if rows.turn[m] >= rows.turn[n]:
        out[n] += gamma ** (rows.turn[m] - rows.turn[n]) * rewards[m]
  return out


@pytest.mark.parametrize('gamma', [0.0, 0.95, 1.0])
def test_discounted_returns_match_a_loop(gamma):
  rows = testing.random_trajectories(0, padding=5)
  rewards = np.random.default_rng(0).normal(size=len(rows.mask))
  actual = discounted_returns(
    rewards.astype(np.float32), rows.traj, rows.turn, rows.mask, gamma=gamma
  )
  np.testing.assert_allclose(actual, loop(rewards, rows, gamma), atol=1e-5)


def test_equal_episodes_have_bit_equal_returns_wherever_their_rows_lie():
  episodes, steps = 33, 17
  traj = np.repeat(np.arange(episodes), steps)
  turn = np.tile(np.arange(steps), episodes)
  rewards = np.tile(np.linspace(0.1, 0.7, steps).astype(np.float32), episodes)
  mask = np.ones(traj.shape, bool)
  out = discounted_returns(rewards, traj, turn, mask, gamma=0.95)
  table = np.asarray(out).reshape(episodes, steps)
  np.testing.assert_array_equal(table, np.broadcast_to(table[0], table.shape))


def test_a_penalty_stays_on_its_own_row():
  values = np.array([9.025, 9.5, 10.0], np.float32)
  out = returns.penalise(values, np.array([True, False, True]), penalty=0.1)
  np.testing.assert_allclose(out, [9.025, 9.4, 10.0], rtol=1e-6)
