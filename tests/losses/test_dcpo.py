"""DCPO's smooth advantages; its loss is in test_surrogates.py."""

import functools

import jax
import numpy as np
import pytest

from hgpo_jax.losses import dcpo

SMOOTH = jax.jit(dcpo.smooth_advantages, static_argnames='std')


def slow(seen, ddof):
  """Advantages of the last of the groups that a prompt has seen."""
  i, new = len(seen), np.float64(seen[-1])
  mean = var = 0.0
  for j, group in enumerate(np.float64(seen)):
    step = group.mean() - mean
    var = (j * var + group.var(ddof=ddof) + j / (j + 1) * step**2) / (j + 1)
    mean += step / (j + 1)
  a_new, a_tot = (
    (new - m) / np.sqrt(v) if v else np.zeros(new.size)
    for m, v in ((new.mean(), new.var(ddof=ddof)), (mean, var))
  )
  first = a_tot / i + (1 - 1 / i) * a_new
  second = a_new / i + (1 - 1 / i) * a_tot
  return np.where(np.abs(first) < np.abs(second), first, second)


@pytest.mark.parametrize('std', ['sample', 'population'])
def test_matches_a_loop_over_visits(std):
  rng = np.random.default_rng(0)
  prompts, seen = dcpo.no_prompts(5), [[] for _ in range(5)]
  for _ in range(6):
    index = rng.permutation(5)[:2]
    rewards = rng.integers(0, 2, (2, 4)) + 0.1 * rng.integers(0, 2, (2, 1))
    rewards = rewards.astype(np.float32)
    advantages, prompts = SMOOTH(prompts, index, rewards, std=std)
    for g, prompt in enumerate(index):
      seen[prompt].append(rewards[g])
      expected = slow(seen[prompt], ddof=std == 'sample')
      np.testing.assert_allclose(advantages[g], expected, atol=1e-4)
  np.testing.assert_array_equal(prompts.visits, [len(s) for s in seen])
  for prompt, groups in enumerate(seen):
    if groups:
      assert prompts.mean[prompt] == pytest.approx(np.mean(groups), rel=1e-5)
      if std == 'population':  # then it is that of all rewards together
        exact = np.var(groups)
        assert prompts.variance[prompt] == pytest.approx(exact, rel=1e-4)


def test_the_first_visit_is_the_plain_group_and_hand_numbers():
  run = functools.partial(SMOOTH, index=np.array([0]), std='population')
  first, prompts = run(dcpo.no_prompts(1), rewards=np.float32([[1, 0, 0, 0]]))
  np.testing.assert_allclose(first, [[1.732051] + [-0.577350] * 3], rtol=1e-5)
  # Then all succeed: mean 5/8, std sqrt(15)/8, A_new = 0, A_tot = sqrt(3/5).
  second, _ = run(prompts, rewards=np.ones((1, 4), np.float32))
  np.testing.assert_allclose(second, [[np.sqrt(0.6) / 2] * 4], rtol=1e-5)


def test_prompts_without_any_spread_get_exactly_zero():
  prompts = dcpo.no_prompts(5)
  index = np.array([3, 1])
  for _ in range(7):
    rewards = np.float32([[1 / 3] * 4, [9.123456] * 4])
    advantages, prompts = SMOOTH(prompts, index, rewards, std='sample')
    np.testing.assert_array_equal(advantages, 0)
  np.testing.assert_array_equal(prompts.variance, 0)
  np.testing.assert_array_equal(prompts.visits, [0, 7, 0, 7, 0])


def test_an_unknown_std_is_refused():
  with pytest.raises(ValueError, match='sample'):
    dcpo.smooth_advantages(
      dcpo.no_prompts(1), np.array([0]), np.ones((1, 2)), std='n'
    )
