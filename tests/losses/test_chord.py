"""CHORD's mixture, token weights and schedule."""

import jax
import numpy as np

from hgpo_jax.losses import chord


def batch(seed=0):
  rng = np.random.default_rng(seed)
  losses = rng.normal(size=(6, 4)).astype(np.float32)
  log_probs = -rng.exponential(size=(6, 4)).astype(np.float32)
  mask = np.arange(4) < np.array([4, 2, 0, 3, 1, 4])[:, None]
  return losses, log_probs, np.array([0, 1, 1, 0, 1, 0], bool), mask


MIX = jax.jit(chord.chord)


def test_each_part_is_the_mean_over_its_own_tokens():
  losses, log_probs, expert, mask = batch()
  imitation = chord.weighted_nll(log_probs)
  p = np.exp(np.float64(log_probs))
  slow = -p * (1 - p) * np.log(p)
  own = losses[~expert][mask[~expert]].mean()
  shown = slow[expert][mask[expert]].mean()
  spoilt = np.where(mask, losses, np.nan)
  for mu in (0.0, 0.3, 1.0):
    actual = MIX(spoilt, np.where(mask, imitation, np.nan), expert, mask, mu)
    np.testing.assert_allclose(actual, (1 - mu) * own + mu * shown, rtol=1e-5)
  assert MIX._cache_size() == 1


def test_micro_batches_add_up_to_the_whole():
  losses, log_probs, expert, mask = batch(1)
  data = losses, chord.nll(log_probs), expert, mask
  whole = MIX(*data, 0.4)
  counts = chord.count(expert, mask)
  parts = zip(*(np.split(np.asarray(x), 3) for x in data), strict=True)
  total = sum(float(MIX(*part, 0.4, counts)) for part in parts)
  np.testing.assert_allclose(total, whole, rtol=1e-5)


def test_no_expert_rows_leave_the_policy_loss():
  losses, log_probs, expert, mask = batch(2)
  none = np.zeros_like(expert)
  actual = MIX(losses, -log_probs, none, mask, 0.25)
  np.testing.assert_allclose(actual, 0.75 * losses[mask].mean(), rtol=1e-5)


def test_weighted_imitation_pulls_most_at_an_even_chance():
  p = np.float32([1e-30, 0.1, 0.5, 0.9, 1.0])
  slope = jax.grad(lambda x: chord.weighted_nll(x).sum())(np.log(p))
  np.testing.assert_allclose(slope, -p * (1 - p), rtol=1e-5, atol=1e-7)
  plain = jax.grad(lambda x: chord.nll(x).sum())(np.log(p))
  np.testing.assert_array_equal(plain, -1)


def test_the_schedule_by_hand():
  steps = np.array([0, 100, 200, 400, 600, 9999])
  actual = chord.mu_schedule(
    steps, warmup=200, decay=400, peak=0.5, valley=0.02
  )
  np.testing.assert_allclose(
    actual, [0, 0.25, 0.5, 0.26, 0.02, 0.02], rtol=1e-5
  )
  np.testing.assert_allclose(  # the paper's chord-mu starts at its peak
    chord.mu_schedule(np.array([0, 100, 200])), [0.9, 0.475, 0.05], rtol=1e-5
  )
