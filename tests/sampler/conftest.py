"""Fixtures of the sampler's tests."""

import jax
import pytest

from hgpo_jax.model import qwen2
from tests.small_decoder import CONFIG


@pytest.fixture(scope='module')
def params():
  init = jax.jit(qwen2.init_params, static_argnums=0)
  params = init(CONFIG, jax.random.key(0))
  return jax.tree.map(lambda a: a * 10 if a.ndim > 1 else a, params)
