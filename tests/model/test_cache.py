"""The cache of keys and values: of all blocks, and of one of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hgpo_jax.model import cache as cache_lib

LAYERS, B, KV, S, E = 3, 2, 2, 5, 4
LENGTH = jnp.asarray([1, S])  # the second row is full


@pytest.fixture(scope='module')
def whole():
  k, v = jax.random.split(jax.random.key(0))
  return cache_lib.KVCache(
    jax.random.normal(k, (LAYERS, B, KV, E, S)),
    jax.random.normal(v, (LAYERS, B, KV, S, E)),
    LENGTH,
  )


@pytest.mark.parametrize('columns', [2, S])
def test_cut_and_put_back_is_the_same(whole, columns):
  part = whole.first(columns)
  assert (part.columns, whole.columns) == (columns, S)
  again = whole.with_first(part)
  jax.tree.map(np.testing.assert_array_equal, again, whole)


def test_a_loop_over_the_first_columns_leaves_the_others(whole):
  ones = jax.tree.map(jnp.ones_like, whole).first(2)
  after = whole.with_first(cache_lib.KVCache(ones.k, ones.v, LENGTH + 1))
  np.testing.assert_array_equal(after.k[..., :2], 1)
  np.testing.assert_array_equal(after.v[..., :2, :], 1)
  np.testing.assert_array_equal(after.k[..., 2:], whole.k[..., 2:])
  np.testing.assert_array_equal(after.v[..., 2:, :], whole.v[..., 2:, :])
  np.testing.assert_array_equal(after.length, LENGTH + 1)


def test_a_token_is_added_behind_the_last_and_lost_when_full(whole):
  store = cache_lib.BlockCache(whole.k, whole.v, jnp.asarray(1), LENGTH)
  new = jnp.full((B, KV, 1, E), 7.0)
  found_k, found_v = store.add(new, -new).mine()
  expected_k, expected_v = np.array(whole.k[1]), np.array(whole.v[1])
  expected_k[0, :, :, 1], expected_v[0, :, 1] = 7, -7
  np.testing.assert_array_equal(found_k, expected_k)
  np.testing.assert_array_equal(found_v, expected_v)
