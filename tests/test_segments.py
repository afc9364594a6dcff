"""Dense ids and moments against dictionaries and NumPy."""

import jax
import numpy as np
import pytest

from hgpo_jax.advantages import segments

lexical_order = jax.jit(segments.lexical_order)
prefix_ids = jax.jit(segments.prefix_ids)
group_moments = jax.jit(segments.group_moments)


@pytest.mark.parametrize('columns, size', [(1, 1), (1, 50), (2, 7), (4, 200)])
def test_lexical_order_sorts_like_tuples_and_is_stable(columns, size):
  rng = np.random.default_rng(0)
  table = rng.integers(-1, min(size, 4), (columns, size)).astype(np.int32)
  order = lexical_order(table)
  expected = sorted(range(size), key=lambda n: (tuple(table[:, n]), n))
  np.testing.assert_array_equal(order, expected)


def test_lexical_order_agrees_on_both_sides_of_the_packing_limit():
  rng = np.random.default_rng(1)
  for size in (2**16 - 1, 2**16):
    table = rng.integers(-1, size, (2, size)).astype(np.int32)
    table[0] %= 100
    table[:, :2] = size - 1  # the largest key that is allowed
    order = lexical_order(table)
    np.testing.assert_array_equal(order, np.lexsort(table[::-1]))


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


@pytest.mark.parametrize('size, groups', [(1, 1), (8, 3), (64, 64)])
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


def test_relative_refuses_other_names():
  moments = group_moments(np.ones(2), np.zeros(2, np.int32))
  with pytest.raises(ValueError, match="expected 'mean' or 'mean_std'"):
    segments.relative(moments, 'median', 'sample', 1e-6)
