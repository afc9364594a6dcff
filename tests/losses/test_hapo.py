"""HAPO's entropy scores and token-group advantages against loops."""

import functools

import jax
import numpy as np

from hgpo_jax.losses import hapo, policy


def entropies(seed=0):
  rng = np.random.default_rng(seed)
  entropy = rng.exponential(size=(6, 5)).astype(np.float32)
  entropy[0, 0] = 0  # a token that was certain
  return entropy, np.arange(5) < np.array([5, 2, 4, 1, 0, 3])[:, None]


@jax.jit
def scores(entropy, mask):
  return hapo.entropy_scores(entropy, mask, hapo.entropy_scale(entropy, mask))


def test_scores_match_the_intended_form():
  entropy, mask = entropies()
  logs = np.log(np.maximum(np.float64(entropy[mask]), 1e-8))
  h = logs - np.sort(logs)[round(0.8 * (logs.size - 1))]
  h /= np.sqrt(np.mean(h**2))
  expected = np.where(h > 0, h / h.max(), h / abs(h.min()))
  actual = np.asarray(scores(entropy, mask))
  np.testing.assert_allclose(actual[mask], expected, atol=1e-5)
  assert actual.min() == -1
  assert actual.max() == 1
  np.testing.assert_array_equal(actual[~mask], 0)


def test_scores_ignore_padding_and_what_does_not_vary():
  entropy, mask = entropies()
  expected = scores(entropy, mask)
  for junk in (np.nan, np.inf, -1.0):
    spoilt = np.where(mask, entropy, junk).astype(np.float32)
    np.testing.assert_array_equal(scores(spoilt, mask), expected)
  np.testing.assert_array_equal(scores(np.ones_like(entropy), mask), 0)
  np.testing.assert_array_equal(scores(entropy, np.zeros_like(mask)), 0)


def test_bounds_and_redistribution_by_hand():
  h = np.float32([-1, -0.5, 0, 0.5, 1])
  low, high = hapo.adaptive_bounds(h, clip_low=0.2, clip_high=0.3)
  np.testing.assert_allclose(low, [0.6, 0.7, 0.8, 0.8, 0.8], rtol=1e-6)
  np.testing.assert_allclose(high, [1.3, 1.3, 1.3, 1.45, 1.6], rtol=1e-6)
  clips = {'clip_low': 0.2, 'clip_high': 0.3}
  for ratio, expected in (
    (1.0, [0, 1, 2, 2, 2]),  # near: sure tokens count less
    (0.95, [0, 1, 2, 2, 2]),
    (0.89, [2, 2, 2, 3, 4]),  # moved: uncertain ones count more
    (1.16, [2, 2, 2, 3, 4]),
  ):
    found = hapo.redistributed(
      np.full_like(h, 2), h, np.full_like(h, ratio), **clips
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_scores_of_zero_leave_the_plain_surrogate():
  rng = np.random.default_rng(1)
  old = -rng.exponential(size=(6, 5)).astype(np.float32)
  new = old + rng.normal(size=old.shape).astype(np.float32)
  data = new, old, np.float32(rng.normal(size=6)), entropies()[1]
  actual = jax.jit(hapo.hapo)(*data, np.zeros_like(old))
  plain = functools.partial(policy.clipped_surrogate, dual_clip=10.0)
  for x, y in zip(actual, jax.jit(plain)(*data), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-6)


def slow_token_group(rewards, lengths, groups, fallback, limit):
  out = np.zeros(rewards.size)
  for g in set(groups[lengths > 0]):
    own = np.flatnonzero((groups == g) & (lengths > 0))
    each = np.repeat(np.float64(rewards[own]), lengths[own])
    if each.max() > each.min():
      a = (rewards[own] - each.mean()) / (each.std() + 1e-6)
      out[own] = fallback[own] if (np.abs(a) >= limit).any() else a
  return out


def test_token_group_advantages_match_a_loop():
  rng = np.random.default_rng(0)
  rewards = rng.integers(0, 3, 24).astype(np.float32)
  groups = rng.integers(0, 5, 24).astype(np.int32)
  groups[:3] = 5
  rewards[:3] = 1 / 3  # no spread
  lengths = rng.integers(0, 9, 24)
  groups[3:6], rewards[3:6], lengths[3:6] = 6, [1, 0, 0], [1, 50, 50]
  fallback = rng.normal(size=24).astype(np.float32)
  fn = jax.jit(hapo.token_group_advantages)
  actual = fn(np.where(lengths > 0, rewards, np.nan), lengths, groups, fallback)
  far = fn(rewards + np.float32(1e4), lengths, groups, fallback)
  np.testing.assert_array_equal(far, actual)  # these sums are exact
  expected = slow_token_group(rewards, lengths, groups, fallback, 5.0)
  np.testing.assert_allclose(actual, expected, atol=1e-4)
  np.testing.assert_array_equal(actual[:3], 0)
  np.testing.assert_array_equal(actual[3:6], fallback[3:6])  # one token of 101
  sums = [lengths[groups == g] @ actual[groups == g] for g in range(5)]
  np.testing.assert_allclose(sums, 0, atol=1e-4)
