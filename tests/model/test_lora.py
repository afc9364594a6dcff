"""Adapters: nothing at the start, one matrix at the end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hgpo_jax.model import lora
from tests import workloads
from tests.small_decoder import small_model

BASE = small_model(30, 8, 16, 2, 2, 1, 4)
TARGETS = ('q_proj', 'v_proj', 'down_proj')
ADAPTED = BASE.replace(lora=lora.Lora(rank=3, alpha=6.0, targets=TARGETS))
TOKENS = np.random.default_rng(0).integers(0, 30, (2, 7))


@pytest.fixture(scope='module')
def base():
  return workloads.random_params(BASE)


@pytest.fixture(scope='module')
def adapters():
  return jax.jit(lambda key: lora.split(ADAPTED.init(key))[0])(
    jax.random.key(1)
  )


def moved(adapters):
  """As if trained: B is no longer zero."""
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: x + rng.normal(size=x.shape), adapters)


def hidden(model, params):
  return np.asarray(jax.jit(model.forward)(params, TOKENS))


def test_split_and_combine_undo_each_other(base, adapters):
  params = lora.combine(adapters, base)
  low, rest = lora.split(params)
  assert jax.tree.structure(low) == jax.tree.structure(adapters)
  assert jax.tree.structure(rest) == jax.tree.structure(base)
  leaves = jax.tree.leaves(adapters)
  assert len(leaves) == 2 * len(TARGETS)
  assert {x.shape[0] for x in leaves} == {2}  # stacked like the blocks
  assert lora.combine({}, base) == base
  # The model knows the combined params as its own.
  own = ADAPTED.param_shapes()
  assert jax.tree.structure(own) == jax.tree.structure(params)


def test_what_a_matrix_a_gives_is_as_large_as_what_it_reads(adapters):
  drawn = adapters['layers']['attention']['q_proj']['lora_a']
  assert drawn.std() == pytest.approx(BASE.config.width**-0.5, rel=0.35)
  drawn = adapters['layers']['mlp']['down_proj']['lora_a']
  assert drawn.std() == pytest.approx(BASE.config.ff_width**-0.5, rel=0.35)


def test_new_adapters_do_nothing(base, adapters):
  adapted = hidden(ADAPTED, lora.combine(adapters, base))
  np.testing.assert_array_equal(adapted, hidden(BASE, base))


def test_merged_is_adapted(base, adapters):
  params = lora.combine(moved(adapters), base)
  adapted = hidden(ADAPTED, params)
  assert np.abs(adapted - hidden(BASE, base)).max() > 0.1
  merged = lora.merge(ADAPTED.config.lora, params)
  assert jax.tree.structure(merged) == jax.tree.structure(base)
  np.testing.assert_allclose(hidden(BASE, merged), adapted, atol=1e-5)
  assert lora.merge(BASE.config.lora, base) is base


def test_merging_keeps_the_stored_type(base, adapters):
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), base)
  merged = lora.merge(ADAPTED.config.lora, lora.combine(adapters, half))
  assert {x.dtype for x in jax.tree.leaves(merged)} == {jnp.dtype('bfloat16')}
