"""Fixtures of the sampler's tests."""

import jax
import pytest

from tests.small_decoder import MODEL


@pytest.fixture(scope='module')
def params():
  params = jax.jit(MODEL.init)(jax.random.key(0))
  return jax.tree.map(lambda a: a * 10 if a.ndim > 1 else a, params)
