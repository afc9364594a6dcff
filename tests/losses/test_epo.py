"""EPO's window, schedule and history of entropies."""

import functools

import jax
import numpy as np
import pytest

from hgpo_jax.losses import epo

USUAL = np.float32([1.0, 0.5, 0.0])  # the last row has no history
ENTROPY = np.float32([[0.1, 1.0, 2.5], [0.1, 0.9, 1.5], [0.1, 5.0, 0.0]])


@pytest.mark.parametrize(
  ('name', 'options', 'expected', 'slope'),
  [
    (
      'hinge',
      {'low': 0.5},
      [[0.4, 0, 0.5], [0.15, 0, 0.5], [0, 0, 0]],
      [[-1, 0, 1], [-1, 0, 1], [0, 0, 0]],
    ),
    (
      'hinge',
      {},
      [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]],
      [[0, 0, 1], [0, 0, 1], [0, 0, 0]],
    ),
    (
      'released',
      {'low': 0.5, 'size': 0.05},
      [[0.05, 0, 0.05], [0.05, 0, 0.05], [0, 0, 0]],
      np.zeros((3, 3)),
    ),
  ],
)
def test_windows_and_their_slopes(name, options, expected, slope):
  fn = functools.partial(epo.WINDOWS[name], **options)

  def total(entropy):
    penalty = fn(entropy, USUAL)
    return penalty.sum(), penalty

  gradient, penalty = jax.jit(jax.grad(total, has_aux=True))(ENTROPY)
  np.testing.assert_allclose(penalty, expected, atol=1e-6)
  np.testing.assert_allclose(gradient, slope, atol=1e-6)


def test_the_bonus_without_weight_is_entropy():
  penalty = epo.released(ENTROPY, USUAL)
  np.testing.assert_array_equal(
    epo.bonus(ENTROPY, penalty, weight=0.0), ENTROPY
  )
  np.testing.assert_allclose(
    epo.bonus(ENTROPY, penalty, weight=2.0), ENTROPY - 2 * penalty
  )


def test_the_weight_falls_slowly_then_quickly():
  progress = np.float32([0, 0.25, 0.5, 0.500001, 0.75, 1])
  x = 2 * progress
  expected = np.append(
    1 - 0.2 * (1 - np.exp(-2 * x[:3])), 0.8 * np.exp(-3 * (x[3:] - 1))
  )
  actual = np.asarray(epo.window_weight(progress))
  np.testing.assert_allclose(actual, expected, rtol=1e-5)
  np.testing.assert_allclose(actual[[0, 2, 3]], [1, 0.827067, 0.8], rtol=1e-4)


def test_the_history_averages_iterations_not_tokens():
  rng = np.random.default_rng(0)
  history, means = epo.no_history(4), [[], [], [], []]
  remember = jax.jit(epo.remember)
  for i in range(3):
    entropy = rng.exponential(size=(8, 5)).astype(np.float32)
    mask = np.arange(5) < rng.integers(1, 6, 8)[:, None]
    step = np.arange(8, dtype=np.int32) % (2 + (i == 1))  # 3 is not reached
    for t in range(4):
      own = entropy[step == t][mask[step == t]]
      if own.size:
        means[t].append(own.astype(np.float64).mean())
    spoilt = np.where(mask, entropy, np.nan)
    history = remember(history, spoilt, mask, step)
  expected = [np.mean(m) if m else 0 for m in means]
  np.testing.assert_allclose(history.mean, expected, rtol=1e-5)
  np.testing.assert_array_equal(history.iterations, [len(m) for m in means])
  np.testing.assert_array_equal(history.iterations, [3, 3, 1, 0])
  assert remember._cache_size() == 1
  usual = epo.usual_entropy(history, np.array([3, 0, 1]), first=1)
  np.testing.assert_allclose(usual, [0, 0, expected[1]], rtol=1e-5)
