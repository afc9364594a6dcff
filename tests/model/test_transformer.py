"""The transformer: the same numbers, however it is called.

That they are those of the released models is shown in test_weights.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hgpo_jax.model import registry
from hgpo_jax.model.cache import KVCache
from hgpo_jax.model.interface import Model
from hgpo_jax.model.lora import Lora
from tests.small_decoder import small_model

MODEL = small_model(50, 16, 32, 3, 4, 2, 4)
QWEN3 = small_model(50, 16, 32, 3, 4, 2, 8, architecture='qwen3')
B, L = 3, 8

forward = jax.jit(Model.forward, static_argnums=0)
prefill = jax.jit(Model.prefill, static_argnums=0)
decode = jax.jit(Model.decode, static_argnums=0)
ONE_TEXT = jnp.ones((B, L), bool)


def drawn(model):
  """Larger than at initialisation, so that attention is far from uniform."""
  params = jax.jit(model.init)(jax.random.key(0))
  return jax.tree.map(lambda a: a * 20 if a.ndim > 2 else a, params)


@pytest.fixture(scope='module')
def params():
  return drawn(MODEL)


@pytest.fixture(scope='module')
def tokens():
  return jax.random.randint(
    jax.random.key(1), (B, L), 0, MODEL.config.vocab_size
  )


@pytest.mark.parametrize('model', [MODEL, QWEN3], ids=['qwen2', 'qwen3'])
@pytest.mark.parametrize('columns', [L, L + 3])
def test_cached_equals_full_forward(model, tokens, columns):
  """Rows of 2, 5 and 4 tokens, continued side by side."""
  params = drawn(model)
  full = forward(model, params, tokens)
  lengths = np.array([2, 5, 4])
  hidden, cache = prefill(model, params, tokens[:, :5], lengths)
  rows = np.arange(B)
  np.testing.assert_allclose(hidden, full[rows, lengths - 1], atol=2e-5)
  room = model.init_cache(B, columns)
  cache = KVCache(
    k=room.k.at[..., :5].set(cache.k),
    v=room.v.at[..., :5, :].set(cache.v),
    length=cache.length,
  )
  for _ in range(L - max(lengths)):
    hidden, cache = decode(model, params, tokens[rows, lengths], cache)
    np.testing.assert_allclose(hidden, full[rows, lengths], atol=2e-5)
    lengths = lengths + 1
    np.testing.assert_array_equal(cache.length, lengths)


def test_empty_cache_is_no_cache(params, tokens):
  cache = MODEL.init_cache(B, L)
  cached, _ = decode(MODEL, params, tokens[:, 0], cache)
  full = forward(MODEL, params, tokens)
  np.testing.assert_allclose(cached, full[:, 0], atol=2e-5)


@pytest.mark.parametrize('pads', [(3, 0), (0, 3), (2, 1)])
def test_padding_changes_nothing(params, tokens, pads):
  left, right = pads
  real = slice(left, L - right)
  full = forward(MODEL, params, tokens[:, real])
  columns = jnp.arange(L)[None]
  valid = ONE_TEXT & (columns >= left) & (columns < L - right)
  for filler in (0, 7):
    padded = jnp.where(valid, tokens, filler)
    hidden = forward(MODEL, params, padded, valid)
    np.testing.assert_allclose(hidden[:, real], full, atol=1e-5)


def test_padding_inside_a_text_is_not_there(params, tokens):
  valid = ONE_TEXT.at[:, 3].set(False)
  hidden = forward(MODEL, params, tokens, valid)
  without = forward(MODEL, params, jnp.delete(tokens, 3, axis=1))
  hidden = jnp.delete(hidden, 3, axis=1)
  np.testing.assert_allclose(hidden, without, atol=1e-5)


@pytest.mark.parametrize('implementation', ['plain', 'xla'])
def test_packed_texts_do_not_see_each_other(params, tokens, implementation):
  model = MODEL.replace(attention=implementation)
  segments = jnp.asarray([[1, 1, 1, 2, 2, 3, 3, 3]] * B, jnp.int32)
  packed = forward(model, params, tokens, segments)
  for part in (slice(0, 3), slice(3, 5), slice(5, 8)):
    alone = forward(MODEL, params, tokens[:, part])
    np.testing.assert_allclose(packed[:, part], alone, atol=2e-5)


def test_row_without_any_token_is_finite(params, tokens):
  for segments in (ONE_TEXT.at[1].set(False), None):
    hidden = forward(MODEL, params, tokens, segments)
    assert np.isfinite(hidden).all()
  hidden, _ = prefill(MODEL, params, tokens, jnp.asarray([0, L, 1]))
  assert np.isfinite(hidden).all()


@pytest.mark.parametrize('implementation', ['plain', 'xla'])
@pytest.mark.parametrize('max_unrolled', [0, 8])
@pytest.mark.parametrize('model', [MODEL, QWEN3], ids=['qwen2', 'qwen3'])
def test_wanted_columns_are_those_of_the_full_forward(
  tokens, model, max_unrolled, implementation
):
  params = drawn(model)
  model = model.replace(attention=implementation, max_unrolled=max_unrolled)
  segments = jnp.asarray([[0, 0, 1, 1, 1, 2, 2, 2]] * B, jnp.int32)
  at = jnp.asarray([[2, 4, 7], [7, 3, 2], [5, 5, 6]])
  full = forward(model, params, tokens, segments)
  wanted = jax.jit(lambda: model.forward(params, tokens, segments, at=at))()
  expected = jnp.take_along_axis(full, at[..., None], axis=1)
  np.testing.assert_allclose(wanted, expected, atol=2e-5)


def test_later_tokens_are_not_seen(params, tokens):
  hidden = forward(MODEL, params, tokens)
  changed = forward(MODEL, params, tokens.at[:, 5:].add(1) % 50)
  np.testing.assert_array_equal(hidden[:, :5], changed[:, :5])
  assert np.abs(hidden[:, 5:] - changed[:, 5:]).max() > 1e-3


@pytest.mark.parametrize('remat', ['dots', 'full'])
def test_rematerialisation_changes_no_gradient(params, tokens, remat):
  def gradient(model):
    def loss(params):
      return jnp.mean(model.forward(params, tokens) ** 2)

    return jax.jit(jax.grad(loss))(params)

  kept = gradient(MODEL)
  again = gradient(MODEL.replace(remat=remat))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    kept,
    again,
  )


def test_grouped_queries_are_repeated_key_heads(params, tokens):
  """Two key heads for four query heads = four, each pair alike."""
  heads = MODEL.config.num_kv_heads
  wide = MODEL.replace(num_kv_heads=MODEL.config.num_heads)

  def repeat(path, leaf):
    if not any(k.key in ('k_proj', 'v_proj') for k in path):
      return leaf
    split = leaf.reshape(*leaf.shape[:-1], heads, -1)
    return jnp.repeat(split, 2, axis=-2).reshape(*leaf.shape[:-1], -1)

  repeated = jax.tree_util.tree_map_with_path(repeat, params)
  grouped = forward(MODEL, params, tokens)
  full = forward(wide, repeated, tokens)
  np.testing.assert_allclose(grouped, full, atol=1e-5)


def test_program_does_not_grow_with_depth(tokens):
  def program_size(layers):
    model = MODEL.replace(num_layers=layers)
    return len(forward.lower(model, model.param_shapes(), tokens).as_text())

  shallowest = MODEL.config.max_unrolled + 1
  assert program_size(40) < 1.02 * program_size(shallowest)


def test_bfloat16_activations_give_float32_logits(params, tokens):
  model = MODEL.replace(dtype='bfloat16')
  hidden = forward(model, params, tokens)
  assert hidden.dtype == jnp.bfloat16
  rough = model.logits(params, hidden)
  assert rough.dtype == jnp.float32
  exact = MODEL.logits(params, forward(MODEL, params, tokens))
  assert np.corrcoef(rough.ravel(), exact.ravel())[0, 1] > 0.99


def test_bfloat16_cache_is_near_the_exact_one(params, tokens):
  model = MODEL.replace(cache_dtype='bfloat16')
  lengths = jnp.full(B, 5)
  _, cache = prefill(model, params, tokens[:, :5], lengths)
  assert cache.k.dtype == jnp.bfloat16
  _, cache = prefill(model, params, tokens, lengths)  # room for more
  hidden, cache = decode(model, params, tokens[:, 5], cache)
  assert cache.k.dtype == jnp.bfloat16
  assert hidden.dtype == jnp.float32
  exact = forward(MODEL, params, tokens)[:, 5]
  assert np.corrcoef(hidden.ravel(), exact.ravel())[0, 1] > 0.99


# In the models' cards, and counted from the sizes in their config.json.
MILLIONS = {
  '0.5b': 494,
  '1.5b': 1544,
  '3b': 3086,
  '7b': 7616,
  'qwen3-0.6b': 596,
  'qwen3-1.7b': 1721,
  'qwen3-4b': 4022,
  'qwen3-8b': 8191,
  'qwen3-14b': 14768,
  'qwen3-32b': 32762,
}


@pytest.mark.parametrize('name', MILLIONS)
def test_parameter_counts_of_the_released_sizes(name):
  shapes = registry.preset(name).param_shapes()
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert round(count / 1e6) == MILLIONS[name]


def test_unfit_sizes_are_refused(tokens):
  with pytest.raises(ValueError, match='num_kv_heads=3'):
    MODEL.replace(num_kv_heads=3)
  with pytest.raises(ValueError, match='head_dim=5'):
    MODEL.replace(head_dim=5)
  with pytest.raises(ValueError, match="remat='half'"):
    MODEL.replace(remat='half')
  with pytest.raises(ValueError, match="'nope'"):
    MODEL.replace(lora=Lora(4, 8.0, targets=('q_proj', 'nope')))
  model = MODEL.replace(attention='nope')
  with pytest.raises(ValueError, match="attention='nope'"):
    jax.eval_shape(model.forward, model.param_shapes(), tokens)
