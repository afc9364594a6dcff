"""hgpo_shrink: by hand, by dictionaries, and against the truth of its model."""

import functools

import jax
import numpy as np
import pytest

from hgpo_jax.advantages import Rows, pad, shrink
from tests import references, workloads

DEPTH, SIZE = 4, 512  # of all batches here, so that one compilation serves
STATES, SPREAD = 4, 3.0  # of the simulated model


compiled = jax.jit(
  functools.partial(shrink.hgpo_shrink, depth=DEPTH),
  static_argnames='normalisation',
)


def shrunk(rows, normalisation='mean'):
  """Advantages `[N]`, in reward units by default, without padding."""
  padded = pad(workloads.as_jax(rows), SIZE)
  found = compiled(padded, normalisation=normalisation)
  return np.asarray(found)[: len(rows.mask)]


def rows_after(histories, returns, episodes=None):
  """One row to judge per history of observations, the earlier turns before it.

  The earlier turns are given to other tasks, so that only the last ones speak
  for task 0.
  """
  length = histories.shape[1]
  size = histories.size
  turn = np.tile(np.arange(length), len(histories))
  last = turn == length - 1
  traj = np.arange(len(histories)) if episodes is None else episodes
  values = np.repeat(returns, length) * last
  return Rows(
    task=np.where(last, 0, 1).astype(np.int32),
    traj=np.repeat(traj, length).astype(np.int32),
    turn=turn.astype(np.int32),
    obs=histories.ravel().astype(np.int32),
    act=np.zeros(size, np.int32),
    episode_return=np.zeros(size, np.float32),
    returns=values.astype(np.float32),
    mask=np.ones(size, bool),
  )


def test_two_contexts_of_two_by_hand():
  # State 0 after state 1 or 2. Inside the contexts SS = 4 on 2 degrees of
  # freedom, sigma^2 = 2; between them 4 x 3^2 on one, c = 2, tau^2 = 17.
  histories = np.array([[1, 0], [1, 0], [2, 0], [2, 0]])
  returns = np.array([1.0, 3.0, 7.0, 9.0])
  share = 17 / (17 + 2 / 2)
  context = np.array([2.0, 2.0, 8.0, 8.0])
  expected = returns - (share * context + (1 - share) * 5)
  actual = shrunk(rows_after(histories, returns))[1::2]
  np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_contexts_that_do_not_matter_are_given_no_say():
  # Both contexts have one mean: no more spread between than inside them.
  histories = np.array([[1, 0], [1, 0], [2, 0], [2, 0]])
  returns = np.array([1.0, 3.0, 1.0, 3.0])
  actual = shrunk(rows_after(histories, returns))[1::2]
  np.testing.assert_allclose(actual, returns - 2, rtol=1e-6)


def test_contexts_without_spread_leave_the_word_to_the_state():
  # Contexts 2 (met once) and 3 (equal returns) would say 0.
  histories = np.array([[1, 0], [1, 0], [2, 0], [3, 0], [3, 0]])
  returns = np.array([1.0, 3.0, 9.0, 5.0, 5.0])
  actual = shrunk(rows_after(histories, returns))[1::2]
  np.testing.assert_allclose(actual[2:], [4.4, 0.4, 0.4], rtol=1e-6)
  assert abs(actual[0] - (1 - 4.6)) > 0.1  # context 1 has a say


@pytest.mark.parametrize('seed', range(4))
def test_equals_the_dictionaries_on_longer_episodes(seed):
  rows = workloads.random_trajectories(
    seed, episodes=8, steps=20, observations=4, padding=7
  )
  expected = references.reference_hgpo_shrink(
    rows, depth=DEPTH, normalisation='mean'
  )
  np.testing.assert_allclose(shrunk(rows), expected, atol=2e-5)


def simulated(rng, tau, sigma):
  """Returns of the model on a random tree: histories, returns, the truth."""
  histories, truth = [], []

  def grow(path, value, k):
    if k == len(tau):
      for _ in range(1 + rng.poisson(2)):
        histories.append(path[::-1])
        truth.append(value)
      return
    for child in range(1 + rng.poisson(2)):
      context = STATES + 10 * k + child
      grow([*path, context], value + tau[k] * rng.normal(), k + 1)

  for state in range(STATES):
    grow([state], SPREAD * rng.normal(), 0)
  histories, truth = np.array(histories[:170]), np.array(truth[:170])
  return histories, truth + sigma * rng.normal(size=len(truth)), truth


def level_means(histories, returns):
  """Mean and size `[K+1, n]` of each row's groups."""
  means, sizes = [], []
  for k in range(histories.shape[1]):
    keys = histories[:, -1 - k :]
    same = (keys[:, None] == keys[None]).all(-1)
    sizes.append(same.sum(1))
    means.append(same @ returns / same.sum(1))
  return np.array(means), np.array(sizes)


def averaged(means, sizes, weights):
  """Baselines from level weights, over the levels that are not met once."""
  share = np.where(sizes > 1, np.array(weights)[:, None], 0)
  return (share * means).sum(0) / np.maximum(share.sum(0), 1e-9)


# What varies with the context of length 1 and of length 2, and the noise.
@pytest.mark.parametrize(
  ('tau', 'sigma'), [((1, 1), 1), ((0.3, 1), 1), ((0, 1.5), 1), ((1.5, 0), 1)]
)
def test_its_baseline_is_nearest_to_the_truth_of_its_model(tau, sigma):
  rng = np.random.default_rng(0)
  errors = []
  for _ in range(20):
    histories, returns, truth = simulated(rng, tau, sigma)
    advantages = shrunk(rows_after(histories, returns))[2::3]
    means, sizes = level_means(histories, returns)
    deepest = np.maximum((sizes > 1).sum(0) - 1, 0)
    baselines = [
      returns - advantages,
      averaged(means, sizes, [1, 0, 0]),
      means[deepest, np.arange(len(truth))],
      averaged(means, sizes, [1, 2, 3]),  # alpha = 1, the paper's weights
      averaged(means, sizes, [2, 3, 4]),  # and the released ones
    ]
    met = sizes[0] > 1
    errors.append([((b - truth)[met] ** 2).mean() for b in baselines])
  ours, *fixed = np.mean(errors, axis=0)
  assert ours < 0.95 * min(fixed)


def test_a_normalised_task_does_not_know_its_unit():
  histories = np.array([[1, 0], [1, 0], [2, 0], [2, 0], [2, 0]])
  returns = np.array([1.0, 3.0, 7.0, 9.0, 4.0])
  small, large = (
    shrunk(rows_after(histories, unit * returns), 'mean_std')
    for unit in (1.0, 100.0)
  )
  assert np.abs(small).max() > 0.5
  np.testing.assert_allclose(small, large, rtol=1e-4)
  spread = returns.std(ddof=1)  # one state, so its own
  raw = shrunk(rows_after(histories, returns))
  np.testing.assert_allclose(small, raw / spread, rtol=1e-4)


def test_an_unknown_normalisation_is_refused():
  rows = workloads.random_trajectories(0)
  with pytest.raises(ValueError, match="expected 'mean' or 'mean_std'"):
    shrunk(rows, normalisation='median')
