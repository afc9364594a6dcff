"""Clip-Cov and KL-Cov against loops over a whole batch."""

import functools

import jax
import numpy as np

from hgpo_jax.losses import covariance, policy

KL_COV = jax.jit(covariance.kl_cov, static_argnames='share')
CLIP_COV = jax.jit(
  functools.partial(covariance.clip_cov, share=0.1, band=(0.1, 0.6))
)


def tokens(seed):
  rng = np.random.default_rng(seed)
  old = -rng.exponential(size=(8, 6))
  new = old + 0.2 * rng.normal(size=old.shape)
  mask = np.arange(6) < rng.integers(0, 7, 8)[:, None]
  floats = (x.astype(np.float32) for x in (new, old, rng.normal(size=8)))
  return *floats, mask


def slow_covariances(new, advantages, mask):
  wide = np.broadcast_to(advantages[:, None], new.shape)
  lp, a = np.float64(new[mask]), np.float64(wide[mask])
  return (lp - lp.mean()) * (a - a.mean())


def test_tokens_add_up_to_the_covariance():
  new, _, advantages, mask = tokens(0)
  found = covariance.token_covariances(new, advantages, mask)
  expected = slow_covariances(new, advantages, mask)
  np.testing.assert_allclose(np.asarray(found)[mask], expected, atol=1e-6)
  np.testing.assert_array_equal(np.asarray(found)[~mask], 0)


def test_kl_cov_holds_back_the_largest():
  new, old, advantages, mask = tokens(1)
  expected = slow_covariances(new, advantages, mask)
  ratio = np.exp(np.float64(new - old))
  for share in (0.2, 1e-6):
    count = max(int(share * mask.sum()), 1)
    held = np.zeros(mask.shape, bool)
    held[mask] = expected >= np.sort(expected)[-count]
    loss = -advantages[:, None] * ratio + held * np.abs(new - old)
    out = KL_COV(new, old, advantages, mask, share=share)
    np.testing.assert_array_equal(out.clipped, held)
    np.testing.assert_allclose(out.loss, np.where(mask, loss, 0), atol=1e-5)


def test_clip_cov_drops_random_tokens_of_the_band():
  new, old, advantages, mask = tokens(2)
  plain = jax.jit(functools.partial(policy.clipped_surrogate, dual_clip=None))(
    new, old, advantages, mask
  )
  eligible = np.zeros(mask.shape, bool)
  found = slow_covariances(new, advantages, mask)
  eligible[mask] = (found > 0.1) & (found < 0.6)
  eligible &= np.asarray(plain.clipped) == 0
  count, union = int(0.1 * mask.sum()), np.zeros(mask.shape, bool)
  assert 1 < count < eligible.sum()
  for seed in range(40):
    key = jax.random.key(seed)
    out = CLIP_COV(new, old, advantages, mask, key)
    dropped = np.asarray(out.clipped) > np.asarray(plain.clipped)
    assert dropped.sum() == count
    assert not (dropped & ~eligible).any()
    loss = np.where(dropped, 0, plain.loss)
    np.testing.assert_array_equal(out.loss, loss)
    union |= dropped
  np.testing.assert_array_equal(union, eligible)


def test_padding_changes_nothing_and_gradients_are_finite():
  new, old, advantages, mask = tokens(3)
  spoilt = [np.where(mask, x, np.nan) for x in (new, old)]
  key = jax.random.key(0)
  np.testing.assert_array_equal(
    KL_COV(*spoilt, advantages, mask, share=0.2).loss,
    KL_COV(new, old, advantages, mask, share=0.2).loss,
  )
  np.testing.assert_array_equal(
    CLIP_COV(*spoilt, advantages, mask, key).loss,
    CLIP_COV(new, old, advantages, mask, key).loss,
  )

  def total(new):
    held = covariance.kl_cov(new, old, advantages, mask, share=0.2).loss
    dropped = covariance.clip_cov(new, old, advantages, mask, key).loss
    return held.sum() + dropped.sum()

  slope = jax.jit(jax.grad(total))
  for x in (new, old, 1e4 * new, *spoilt[:1]):
    assert np.isfinite(slope(x)).all()
