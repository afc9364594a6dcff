"""KL and means against loops over tokens, and the sum over micro-batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hgpo_jax.losses import aggregate, kl, policy


def tokens(seed, rows=6, length=5):
  """Log-probs of two policies, advantages, ragged mask with an empty row."""
  rng = np.random.default_rng(seed)
  old = -rng.exponential(size=(rows, length)).astype(np.float32)
  new = old + rng.normal(size=(rows, length)).astype(np.float32)
  advantages = rng.normal(size=rows).astype(np.float32)
  lengths = np.append(rng.integers(1, length + 1, rows - 1), 0)
  return new, old, advantages, np.arange(length) < lengths[:, None]


def test_no_gradient_flows_past_a_clip():
  cases = [  # advantage, log-ratio, slope of the loss
    (1.0, 0.5, 0.0),  # already likelier than the clip allows
    (1.0, -0.5, -np.exp(-0.5)),  # made rarer: pull it back
    (-1.0, -0.5, 0.0),  # already rarer than the clip allows
    (-1.0, 0.5, np.exp(0.5)),
    (-1.0, 2.0, 0.0),  # exp(2) > 3: the dual clip
    (1.0, 30.0, 0.0),
    (-1.0, 1e4, 0.0),  # no overflow
  ]
  advantages, log_ratios, slopes = np.array(cases, np.float32).T

  def loss(new):
    old = jnp.zeros_like(new)
    mask = jnp.ones_like(new)
    return policy.clipped_surrogate(new, old, advantages, mask).loss.sum()

  value, slope = jax.jit(jax.value_and_grad(loss))(log_ratios[:, None])
  np.testing.assert_allclose(slope[:, 0], slopes, rtol=1e-6)
  assert np.isfinite(value)


def test_a_dual_clip_that_would_bind_at_ratio_one_is_refused():
  with pytest.raises(ValueError, match='above 1'):
    policy.clipped_surrogate(*tokens(0), dual_clip=1.0)


def test_kl_estimators_match_their_formulas():
  new, ref, _, _ = tokens(3)
  d = ref.astype(np.float64) - new
  k3 = np.minimum(np.exp(d) - d - 1, 10)
  expected = {'k1': -d, 'k2': d**2 / 2, 'k3': k3}
  assert set(expected) == set(kl.ESTIMATORS)
  for name, fn in kl.ESTIMATORS.items():
    np.testing.assert_allclose(fn(new, ref), expected[name], atol=1e-5)
    np.testing.assert_array_equal(fn(ref, ref), 0)


def test_k1_and_k3_estimate_the_kl_divergence_without_bias():
  rng = np.random.default_rng(0)
  p, q = (
    np.log(rng.dirichlet(np.full(5, 9.0))).astype(np.float32) for _ in 'pq'
  )
  truth = (np.exp(p) * (p - q)).sum()
  for fn in (kl.k1, kl.k3):  # the exact expectation over the policy's tokens
    mean = (np.exp(p) * fn(p[None], q[None])[0]).sum()
    assert mean == pytest.approx(truth, abs=1e-5)


def test_kl_is_bounded_and_keeps_small_differences():
  far = jnp.array([[-100.0, 0.0]]), jnp.array([[0.0, -100.0]])
  np.testing.assert_array_equal(kl.k1(*far), [[-20, 20]])
  np.testing.assert_array_equal(kl.k3(*far), [[10, 10]])
  tiny = kl.k3(jnp.zeros((1, 1)), jnp.full((1, 1), 1e-2))
  np.testing.assert_allclose(tiny, 5.0167e-5, rtol=1e-3)


def loop_aggregate(name, values, mask):
  rows = [v[m] for v, m in zip(values, mask, strict=True) if m.any()]
  sums = np.array([row.sum() for row in rows])
  lengths = np.array([row.size for row in rows])
  return {
    'token-mean': sums.sum() / lengths.sum(),
    'seq-mean-token-mean': (sums / lengths).mean(),
    'seq-mean-token-sum': sums.mean(),
    'seq-mean-token-sum-norm': sums.mean() / values.shape[1],
  }[name]


@pytest.mark.parametrize('name', aggregate.AGGREGATES)
def test_aggregates_match_a_loop_and_ignore_padding(name):
  values, _, _, mask = tokens(4)
  fn = aggregate.AGGREGATES[name].mean
  expected = loop_aggregate(name, values, mask)
  assert fn(values, mask) == pytest.approx(expected, rel=1e-5)
  spoilt = np.where(mask, values, np.nan)
  assert fn(spoilt, mask.astype(np.int32)) == pytest.approx(expected, rel=1e-5)
  assert fn(values, np.zeros_like(mask)) == 0


@pytest.mark.parametrize('name', aggregate.AGGREGATES)
@pytest.mark.parametrize('parts', [2, 3, 6])
def test_micro_batches_add_up_to_the_whole(name, parts):
  values, _, _, mask = tokens(5)
  fn = aggregate.AGGREGATES[name]
  whole = fn.mean(values, mask)
  denominator = fn.count(mask)
  total = sum(
    fn.mean(v, m, denominator)
    for v, m in zip(np.split(values, parts), np.split(mask, parts), strict=True)
  )
  assert float(total) == pytest.approx(float(whole), rel=1e-6)
  assert fn.mean(values, mask, denominator) == whole


def test_scaled_sums_take_one_length_for_all_buckets():
  values, _, _, mask = tokens(6)
  wide = np.pad(values, ((0, 0), (0, 3)))
  wide_mask = np.pad(mask, ((0, 0), (0, 3)))
  fn = aggregate.row_mean_of_scaled_sums
  np.testing.assert_allclose(
    fn(wide, wide_mask, length=10), fn(values, mask, length=10), rtol=1e-6
  )
