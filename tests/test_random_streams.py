"""Keys and seeds: fixed numbers, and none of them shared by two purposes."""

import itertools

import jax
import numpy as np
import pytest

from hgpo_jax import random_streams
from hgpo_jax.random_streams import Key, Seed


def test_keys_are_folds_of_the_seed_the_purpose_and_the_steps():
  expected = jax.random.key(7)
  for number in (5, 3, 2):
    expected = jax.random.fold_in(expected, number)
  found = random_streams.key(7, Key.REFILL, 3, 2)
  assert (jax.random.key_data(found) == jax.random.key_data(expected)).all()


def test_no_two_uses_share_a_key():
  uses = itertools.product((0, 1), Key, (0, 1, 2))
  keys = [jax.random.key_data(random_streams.key(*use)) for use in uses]
  assert len({np.asarray(k).tobytes() for k in keys}) == 2 * len(Key) * 3


@pytest.mark.parametrize('seed', [(0,), (0, 1), (3, 0, 2)])
def test_generators_differ_by_purpose(seed):
  drawn = {random_streams.generator(seed, p).random() for p in Seed}
  assert len(drawn) == len(Seed)
  expected = np.random.default_rng((*seed, 1)).random()
  assert random_streams.generator(seed, Seed.MINIBATCHES).random() == expected
