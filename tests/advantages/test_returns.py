"""Returns and GAE against loops backwards over each episode."""

import jax
import numpy as np
import pytest

from hgpo_jax.advantages import returns, segments
from tests import workloads

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
  rows = workloads.random_trajectories(0, padding=5)
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


WIDTH = 5  # reply tokens of a row
turn_gae = jax.jit(returns.turn_gae)
token_gae = jax.jit(returns.token_gae)


def gae_loop(rewards, values, rows, mask, gamma, lam, last_values):
  """Token by token, from the last turn of each episode to its first."""
  advantages = np.zeros(mask.shape)
  for traj in set(rows.traj[mask.any(1)]):
    members = np.flatnonzero(mask.any(1) & (rows.traj == traj))
    members = members[np.argsort(rows.turn[members])]
    value, advantage = last_values[members[-1]], 0.0
    for n in members[::-1]:
      for token in np.flatnonzero(mask[n])[::-1]:
        delta = rewards[n, token] + gamma * value - values[n, token]
        advantage = delta + gamma * lam * advantage
        value = values[n, token]
        advantages[n, token] = advantage
  return advantages


@pytest.fixture(scope='module')
def tokens():
  """Rows, and rewards, values, mask and last values of their tokens."""
  rows = workloads.random_trajectories(1, padding=5)
  rng = np.random.default_rng(1)
  shape = len(rows.mask), WIDTH
  mask = (rng.uniform(size=shape) < 0.6) & rows.mask[:, None]
  rewards, values = rng.normal(size=(2, *shape)).astype(np.float32)
  return rows, rewards, values, mask, rewards[:, 0] * 3


@pytest.mark.parametrize(
  ('gamma', 'lam'), [(0.9, 0.8), (1.0, 1.0), (0.95, 0.0)]
)
@pytest.mark.parametrize('goes_on', [0, 1])
def test_token_gae_matches_a_loop_and_skips_what_is_masked(
  tokens, gamma, lam, goes_on
):
  rows, rewards, values, mask, last = tokens
  junk = np.where(mask, 0, np.nan).astype(np.float32)
  advantages, targets = token_gae(
    rewards + junk,
    values + junk,
    rows.traj,
    rows.turn,
    mask,
    gamma=gamma,
    lam=lam,
    last_values=goes_on * last,
  )
  expected = gae_loop(rewards, values, rows, mask, gamma, lam, goes_on * last)
  np.testing.assert_allclose(advantages, expected, atol=2e-5)
  np.testing.assert_allclose(
    targets, np.where(mask, expected + values, 0), atol=2e-5
  )
  np.testing.assert_array_equal(np.asarray(advantages)[~mask], 0)


def by_turn(tokens, gamma, lam, goes_on):
  rows, rewards, values, _, last = tokens
  return turn_gae(
    rewards[:, 0],
    values[:, 0],
    rows.traj,
    rows.turn,
    rows.mask,
    gamma=gamma,
    lam=lam,
    last_values=goes_on * last,
  )


def test_lambda_one_is_the_return_minus_the_value(tokens):
  rows, rewards, values, _, _ = tokens
  advantages, targets = by_turn(tokens, 0.9, 1.0, goes_on=0)
  total = discounted_returns(
    rewards[:, 0], rows.traj, rows.turn, rows.mask, gamma=0.9
  )
  np.testing.assert_allclose(targets, total, atol=1e-5)
  expected = np.where(rows.mask, total - values[:, 0], 0)
  np.testing.assert_allclose(advantages, expected, atol=1e-5)


def test_lambda_zero_is_the_error_of_one_step(tokens):
  rows, rewards, values, _, last = tokens
  advantages, _ = by_turn(tokens, 0.9, 0.0, goes_on=1)
  at = {(rows.traj[n], rows.turn[n]): n for n in np.flatnonzero(rows.mask)}
  for n in at.values():
    later = at.get((rows.traj[n], rows.turn[n] + 1))
    following = last[n] if later is None else values[later, 0]
    expected = rewards[n, 0] + 0.9 * following - values[n, 0]
    np.testing.assert_allclose(advantages[n], expected, atol=1e-5)


def test_a_turn_of_one_token_is_a_token(tokens):
  rows, rewards, values, _, last = tokens
  # The same numbers, each on another token of its row.
  place = np.arange(len(rows.mask))[:, None] % WIDTH == np.arange(WIDTH)
  advantages, targets = token_gae(
    np.where(place, rewards[:, :1], 0),
    np.where(place, values[:, :1], 0),
    rows.traj,
    rows.turn,
    place & rows.mask[:, None],
    gamma=0.9,
    lam=0.8,
    last_values=last,
  )
  found = by_turn(tokens, 0.9, 0.8, goes_on=1)
  np.testing.assert_allclose(advantages.sum(1), found[0], atol=1e-6)
  np.testing.assert_allclose(targets.sum(1), found[1], atol=1e-6)


def test_whitened_tokens_have_no_mean_and_unit_spread(tokens):
  _, rewards, _, mask, _ = tokens
  white = np.asarray(segments.whiten(rewards, mask))
  x = rewards[mask].astype(np.float64)
  np.testing.assert_allclose(
    white[mask], (x - x.mean()) / np.sqrt(x.var(ddof=1) + 1e-8), atol=1e-5
  )
  np.testing.assert_array_equal(white[~mask], 0)
  same = segments.whiten(np.full_like(rewards, 0.1), mask)
  np.testing.assert_array_equal(same, 0)
