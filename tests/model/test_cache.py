"""The cache of keys and values: of all blocks, and of each by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hgpo_jax.model import cache as cache_lib

LAYERS, B, KV, S, H = 3, 2, 2, 5, 4
LENGTH = jnp.asarray([1, S])  # the second row is full


@pytest.fixture(scope='module')
def whole():
  k, v = jax.random.split(jax.random.key(0))
  return cache_lib.KVCache(
    jax.random.normal(k, (LAYERS, B, KV, H, S)),
    jax.random.normal(v, (LAYERS, B, KV, S, H)),
    LENGTH,
  )


def test_split_and_stacked_again_is_the_same(whole):
  k, v = (cache_lib.pieces(x, LAYERS) for x in (whole.k, whole.v))
  part = cache_lib.KVCache(k, v, LENGTH)
  assert part.slots == whole.slots == S
  again = cache_lib.restack(whole, part)
  jax.tree.map(np.testing.assert_array_equal, again, whole)


def test_a_loop_over_the_first_slots_leaves_the_others(whole):
  ones = jax.tree.map(jnp.ones_like, whole)
  first = cache_lib.KVCache(ones.k[..., :2], ones.v[..., :2, :], LENGTH + 1)
  after = cache_lib.restack(whole, first)
  np.testing.assert_array_equal(after.k[..., :2], 1)
  np.testing.assert_array_equal(after.v[..., :2, :], 1)
  np.testing.assert_array_equal(after.k[..., 2:], whole.k[..., 2:])
  np.testing.assert_array_equal(after.v[..., 2:, :], whole.v[..., 2:, :])
  np.testing.assert_array_equal(after.length, LENGTH + 1)


@pytest.mark.parametrize('layer', [None, 1])
def test_a_token_is_added_behind_the_last_and_lost_when_full(whole, layer):
  k, v = (whole.k, whole.v) if layer is not None else (whole.k[1], whole.v[1])
  number = None if layer is None else jnp.asarray(layer)
  store = cache_lib.BlockCache(k, v, number, LENGTH)
  new = jnp.full((B, KV, 1, H), 7.0)
  found_k, found_v = store.add(new, -new).mine()
  expected_k, expected_v = np.array(whole.k[1]), np.array(whole.v[1])
  expected_k[0, :, :, 1], expected_v[0, :, 1] = 7, -7
  np.testing.assert_array_equal(found_k, expected_k)
  np.testing.assert_array_equal(found_v, expected_v)
