"""Dense ids and moments against dictionaries and NumPy."""

import jax
import numpy as np
import pytest

from hgpo_jax.advantages import segments

prefix_ids = jax.jit(segments.prefix_ids)
group_moments = jax.jit(segments.group_moments)
batch_moments = jax.jit(segments.batch_moments)
lower_median = jax.jit(segments.lower_median)


def test_episode_order_puts_padding_last():
  traj, turn = np.array([[1, 7, 0, 1, 0], [1, 0, 2, 0, 9]], np.int32)
  mask = np.array([True, False, True, True, False])
  order = jax.jit(segments.episode_order)(traj, turn, mask)
  np.testing.assert_array_equal(order, [2, 3, 0, 1, 4])


@pytest.mark.parametrize('size', [1, 6, 100])
def test_prefix_ids_are_dense_and_join_just_the_equal_prefixes(size):
  rng = np.random.default_rng(size)
  table = rng.integers(-1, min(size, 3), (4, size)).astype(np.int32)
  ids = np.asarray(prefix_ids(table))
  for c in range(4):
    keys = [tuple(table[: c + 1, n]) for n in range(size)]
    real = [n for n in range(size) if min(keys[n]) >= 0]
    absent = np.delete(ids[c], real)
    np.testing.assert_array_equal(absent, -1)
    pairs = {(keys[n], ids[c, n]) for n in real}
    distinct = {keys[n] for n in real}
    assert len(pairs) == len(distinct)  # one id for each key
    assert {i for _, i in pairs} == set(range(len(distinct)))


@pytest.mark.parametrize(('size', 'groups'), [(1, 1), (8, 3), (64, 64)])
def test_group_moments_match_numpy(size, groups):
  rng = np.random.default_rng(size)
  values = rng.normal(size=size).astype(np.float32)
  ids = rng.integers(-1, groups, size).astype(np.int32)
  counted = rng.uniform(size=size) < 0.7
  actual = group_moments(values, ids, counted)
  for n in range(size):
    members = values[(ids == ids[n]) & counted] if ids[n] >= 0 else values[:0]
    assert actual.count[n] == len(members)
    assert actual.spread[n] == (len(set(members.tolist())) > 1)
    if len(members):
      mean = members.mean()
      assert actual.mean[n] == pytest.approx(mean, abs=1e-5)
      assert actual.centred[n] == pytest.approx(values[n] - mean, abs=1e-5)
    for std, ddof in segments.DDOF.items():
      if len(members) > ddof:
        expected = members.var(ddof=ddof)
        assert actual.variance(std)[n] == pytest.approx(expected, abs=1e-5)
    if ids[n] < 0:
      assert actual.mean[n] == actual.centred[n] == actual.squares[n] == 0


@pytest.mark.parametrize('real', [0, 1, 40])
def test_batch_moments_are_those_of_one_group(real):
  rng = np.random.default_rng(real)
  values = np.append(rng.normal(size=real), np.full(64 - real, np.nan))
  values = values.astype(np.float32)
  mask = np.arange(64) < real
  counted = rng.uniform(size=64) < 0.7
  actual = batch_moments(values, mask, counted)
  expected = group_moments(values, np.where(mask, 0, -1), counted)
  for field, value in vars(expected).items():
    np.testing.assert_allclose(getattr(actual, field), value, atol=1e-5)


def test_moments_of_a_large_batch_keep_their_digits():
  values = np.random.default_rng(0).uniform(size=2**18).astype(np.float32)
  moments = batch_moments(values, np.ones(2**18, bool))
  exact = values.astype(np.float64)
  assert moments.mean[0] == pytest.approx(exact.mean(), rel=1e-6)
  assert moments.variance('sample')[0] == pytest.approx(
    exact.var(ddof=1), rel=1e-6
  )


def test_equal_values_have_no_spread_though_their_mean_rounds():
  values = np.full(
    7, 0.1, np.float32
  )  # seven tenths over seven is not 0.1 in float32
  moments = group_moments(values, np.zeros(7, np.int32))
  assert not moments.spread.any()
  for name in ('mean', 'mean_std'):
    np.testing.assert_array_equal(
      segments.relative(moments, name, 'sample', 1e-6), 0
    )


def test_a_large_common_part_costs_no_digits():
  small = np.array([0.0, 0.25, 1.0], np.float32)
  ids = np.zeros(3, np.int32)
  plain = group_moments(small, ids)
  lifted = group_moments(small + 2.0**20, ids)
  np.testing.assert_array_equal(plain.centred, lifted.centred)
  np.testing.assert_array_equal(plain.squares, lifted.squares)


@pytest.mark.parametrize(('size', 'groups'), [(1, 1), (8, 3), (64, 5)])
def test_lower_median_is_one_of_the_values(size, groups):
  rng = np.random.default_rng(size)
  values = rng.integers(0, 4, size).astype(np.float32) / 3
  ids = rng.integers(-1, groups, size).astype(np.int32)
  counted = rng.uniform(size=size) < 0.7
  values[(ids < 0) | ~counted] = np.nan  # nobody looks
  actual = lower_median(values, ids, counted)
  for n in range(size):
    members = sorted(values[(ids == ids[n]) & counted])
    if ids[n] < 0:
      assert actual[n] == 0
    elif members:
      assert actual[n] == members[(len(members) - 1) // 2]


def test_relative_refuses_other_names():
  moments = group_moments(np.ones(2), np.zeros(2, np.int32))
  with pytest.raises(ValueError, match="expected 'mean' or 'mean_std'"):
    segments.relative(moments, 'median', 'sample', 1e-6)
