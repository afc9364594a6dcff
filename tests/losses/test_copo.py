"""COPO's mixed loss against the clipped losses that it mixes."""

import functools

import jax
import numpy as np

from hgpo_jax.losses import copo, policy

PLAIN = jax.jit(functools.partial(policy.clipped_surrogate, dual_clip=None))


def tokens(scale):
  rng = np.random.default_rng(0)
  old = -rng.exponential(size=(6, 4))
  new = old + scale * rng.normal(size=old.shape)
  rows = rng.normal(size=6), rng.normal(size=6), rng.random(6)
  mask = np.arange(4) < rng.integers(0, 5, 6)[:, None]
  return *(x.astype(np.float32) for x in (new, old, *rows)), mask


def test_the_mix_and_its_gradient():
  fn = jax.jit(copo.copo)
  for scale, clips in ((0.05, False), (1.0, True)):
    new, old, local, across, weight, mask = tokens(scale)
    out = fn(new, old, local, across, weight, mask)
    wide = weight[:, None] * mask
    one, two = (PLAIN(new, old, a, mask) for a in (local, across))
    for mixed, x, y in zip(out, one, two, strict=True):
      np.testing.assert_allclose(mixed, wide * x + (1 - wide) * y, atol=1e-6)
    joint = PLAIN(new, old, weight * local + (1 - weight) * across, mask)
    same = np.allclose(out.loss, joint.loss, atol=1e-6)
    assert same != clips
    assert (np.asarray(out.clipped).max() > 0) == clips


def test_padding_changes_nothing():
  *floats, mask = tokens(1.0)
  fn = jax.jit(copo.copo)
  empty = ~mask.any(axis=1)
  assert empty.any()
  spoilt = [
    np.where(mask if x.ndim == 2 else ~empty, x, np.nan) for x in floats
  ]
  for x, y in zip(fn(*spoilt, mask), fn(*floats, mask), strict=True):
    np.testing.assert_array_equal(x, y)
