"""BAPO's vectorised search against the loop that it stands for."""

import jax
import numpy as np
import pytest

from hgpo_jax.losses import bapo

MASSES = jax.jit(bapo.masses)


def tokens(seed, shift):
  """Log-probs of two policies; advantages whose mean is `shift`."""
  rng = np.random.default_rng(seed)
  old = -rng.exponential(size=(8, 6))
  new = old + 0.8 * rng.normal(size=old.shape)
  advantages = rng.normal(size=8) + shift
  mask = rng.random(old.shape) < 0.8
  return *(x.astype(np.float32) for x in (new, old, advantages)), mask


def slow_search(new, old, advantages, mask, target):
  """The released loops, in units of 0.05 so that no rounding adds up."""

  def balance(low, high):
    positive = negative = 0.0
    for b, t in np.argwhere(mask):
      a, ratio = float(advantages[b]), np.exp(float(new[b, t] - old[b, t]))
      if a >= 0:
        positive += a * min(ratio, high * 0.05)
      else:
        negative -= a * max(ratio, low * 0.05)
    return positive / negative if negative else np.inf

  low, high = 12, 24
  while balance(low, high) < target and low < 16:
    low += 1
  while balance(low, high) < target and high < 40:
    high += 1
  return low * 0.05, high * 0.05


def test_candidates_rise_low_first():
  tried = bapo.candidates()
  assert tried.low.shape == tried.high.shape == (1 + 4 + 16,)
  np.testing.assert_allclose(tried.low[:6], [0.6, 0.65, 0.7, 0.75, 0.8, 0.8])
  np.testing.assert_allclose(tried.high[3:7], [1.2, 1.2, 1.25, 1.3])
  assert tried.high[-1] == 2
  assert tried.low[-1] == np.float32(0.8)
  # A step that does not divide the range ends at its end all the same.
  uneven = bapo.candidates(low=(0.5, 0.5), high=(1.0, 1.5), step=0.2)
  np.testing.assert_allclose(uneven.high, [1.0, 1.2, 1.4, 1.5])
  with pytest.raises(ValueError, match='rises'):
    bapo.candidates(low=(0.8, 0.6))


def test_the_search_matches_the_loops():
  tried, seen = bapo.candidates(), set()
  for seed in range(12):
    for shift in (-0.5, 0.0, 0.1, 1.0):
      data = tokens(seed, shift)
      found = bapo.first_hit(MASSES(*data, tried), tried, target=1.0)
      expected = slow_search(*data, 1.0)
      np.testing.assert_allclose(found, expected, atol=1e-5)
      seen.add(tuple(np.round(expected, 2)))
  assert {(0.6, 1.2), (0.8, 2.0)} < seen  # at once, never, and in between
  assert not any(0.6 < low < 0.8 for low, _ in seen)  # as the docstring says


def test_masses_of_parts_add_up_and_padding_has_none():
  new, old, advantages, mask = tokens(0, 0.0)
  tried = bapo.candidates()
  whole = MASSES(new, old, advantages, mask, tried)
  parts = [
    MASSES(new, old, advantages, mask & (np.arange(8) % 2 == i)[:, None], tried)
    for i in range(2)
  ]
  for total, *own in zip(whole, *parts, strict=True):
    np.testing.assert_allclose(total, sum(own), rtol=1e-5)
  spoilt = np.where(mask, old, np.nan)
  for x, y in zip(
    MASSES(new, spoilt, advantages, mask, tried), whole, strict=True
  ):
    np.testing.assert_array_equal(x, y)


def test_without_negatives_the_first_bounds_hit():
  new, old, advantages, mask = tokens(1, 0.0)
  tried = bapo.candidates()
  masses = MASSES(new, old, np.abs(advantages), mask, tried)
  np.testing.assert_allclose(bapo.first_hit(masses, tried), [0.6, 1.2])
