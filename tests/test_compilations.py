"""XLA's compilations are counted once each, and only while somebody listens."""

import jax
import jax.numpy as jnp

from hgpo_jax.train.compilations import Compilations


def test_each_new_shape_counts_once():
  fn = jax.jit(lambda x: x * 2 + 1)
  first, second = jnp.ones(3), jnp.ones(5)
  with Compilations() as compilations:
    for x in (first, second, first, second):
      fn(x)
    assert compilations.count == 2 and compilations.seconds > 0
    jnp.ones(7) + 3  # eager operations are compiled, too
    assert compilations.count > 2
  counted = compilations.count
  fn(jnp.ones(11))
  assert compilations.count == counted
