"""Qwen2.5: the same numbers, however it is called.

That they are those of the released architecture is shown in test_weights.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hgpo_jax.model import qwen2
from hgpo_jax.model.cache import KVCache

CONFIG = qwen2.Config(
  vocab_size=50,
  width=16,
  ff_width=32,
  num_layers=3,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  dtype='float32',
  cache_dtype='float32',
)
B, L = 3, 8

forward = jax.jit(qwen2.forward, static_argnums=0)
prefill = jax.jit(qwen2.prefill, static_argnums=0)
decode = jax.jit(qwen2.decode, static_argnums=0)
ONE_TEXT = jnp.ones((B, L), bool)


@pytest.fixture(scope='module')
def params():
  """Larger than at initialisation, so that attention is far from uniform."""
  init = jax.jit(qwen2.init_params, static_argnums=0)
  params = init(CONFIG, jax.random.key(0))
  return jax.tree.map(lambda a: a * 20 if a.ndim > 1 else a, params)


@pytest.fixture(scope='module')
def tokens():
  return jax.random.randint(jax.random.key(1), (B, L), 0, CONFIG.vocab_size)


@pytest.mark.parametrize('slots', [L, L + 3])
def test_cached_equals_full_forward(params, tokens, slots):
  """Rows of 2, 5 and 4 tokens, continued side by side."""
  full = forward(CONFIG, params, tokens)
  lengths = np.array([2, 5, 4])
  hidden, cache = prefill(CONFIG, params, tokens[:, :5], lengths)
  rows = np.arange(B)
  np.testing.assert_allclose(hidden, full[rows, lengths - 1], atol=2e-5)
  room = qwen2.init_cache(CONFIG, B, slots)
  cache = KVCache(
    k=room.k.at[..., :5].set(cache.k),
    v=room.v.at[..., :5, :].set(cache.v),
    length=cache.length,
  )
  for _ in range(L - max(lengths)):
    hidden, cache = decode(CONFIG, params, tokens[rows, lengths], cache)
    np.testing.assert_allclose(hidden, full[rows, lengths], atol=2e-5)
    lengths = lengths + 1
    np.testing.assert_array_equal(cache.length, lengths)


def test_empty_cache_is_no_cache(params, tokens):
  cache = qwen2.init_cache(CONFIG, B, L)
  cached, _ = decode(CONFIG, params, tokens[:, 0], cache)
  full = forward(CONFIG, params, tokens)
  np.testing.assert_allclose(cached, full[:, 0], atol=2e-5)


@pytest.mark.parametrize('pads', [(3, 0), (0, 3), (2, 1)])
def test_padding_changes_nothing(params, tokens, pads):
  left, right = pads
  real = slice(left, L - right)
  full = forward(CONFIG, params, tokens[:, real])
  columns = jnp.arange(L)
  valid = ONE_TEXT & (columns >= left) & (columns < L - right)
  for filler in (0, 7):
    padded = jnp.where(valid, tokens, filler)
    hidden = forward(CONFIG, params, padded, valid)
    np.testing.assert_allclose(hidden[:, real], full, atol=1e-5)


def test_padding_inside_a_text_is_not_there(params, tokens):
  valid = ONE_TEXT.at[:, 3].set(False)
  hidden = forward(CONFIG, params, tokens, valid)
  without = forward(CONFIG, params, jnp.delete(tokens, 3, axis=1))
  hidden = jnp.delete(hidden, 3, axis=1)
  np.testing.assert_allclose(hidden, without, atol=1e-5)


@pytest.mark.parametrize('implementation', ['plain', 'xla'])
def test_packed_texts_do_not_see_each_other(params, tokens, implementation):
  config = dataclasses.replace(CONFIG, attention=implementation)
  segments = jnp.asarray([[1, 1, 1, 2, 2, 3, 3, 3]] * B, jnp.int32)
  packed = forward(config, params, tokens, segments)
  for part in (slice(0, 3), slice(3, 5), slice(5, 8)):
    alone = forward(CONFIG, params, tokens[:, part])
    np.testing.assert_allclose(packed[:, part], alone, atol=2e-5)


def test_row_without_any_token_is_finite(params, tokens):
  for segments in (ONE_TEXT.at[1].set(False), None):
    hidden = forward(CONFIG, params, tokens, segments)
    assert np.isfinite(hidden).all()
  hidden, _ = prefill(CONFIG, params, tokens, jnp.asarray([0, L, 1]))
  assert np.isfinite(hidden).all()


@pytest.mark.parametrize('implementation', ['plain', 'xla'])
@pytest.mark.parametrize('shallow', [0, 8])
def test_wanted_columns_are_those_of_the_full_forward(
  params, tokens, monkeypatch, shallow, implementation
):
  monkeypatch.setattr(qwen2, 'SHALLOW', shallow)
  config = dataclasses.replace(CONFIG, attention=implementation)
  segments = jnp.asarray([[0, 0, 1, 1, 1, 2, 2, 2]] * B, jnp.int32)
  at = jnp.asarray([[2, 4, 7], [7, 3, 2], [5, 5, 6]])
  full = forward(CONFIG, params, tokens, segments)
  wanted = jax.jit(lambda: qwen2.forward(
    config, params, tokens, segments, at=at
  ))()  # fmt: skip
  expected = jnp.take_along_axis(full, at[..., None], axis=1)
  np.testing.assert_allclose(wanted, expected, atol=2e-5)


def test_later_tokens_are_not_seen(params, tokens):
  hidden = forward(CONFIG, params, tokens)
  changed = forward(CONFIG, params, tokens.at[:, 5:].add(1) % 50)
  np.testing.assert_array_equal(hidden[:, :5], changed[:, :5])
  assert np.abs(hidden[:, 5:] - changed[:, 5:]).max() > 1e-3


@pytest.mark.parametrize('remat', ['dots', 'full'])
def test_rematerialisation_changes_no_gradient(params, tokens, remat):
  def gradient(config):
    def loss(params):
      return jnp.mean(qwen2.forward(config, params, tokens) ** 2)

    return jax.jit(jax.grad(loss))(params)

  kept = gradient(CONFIG)
  again = gradient(dataclasses.replace(CONFIG, remat=remat))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    kept,
    again,
  )


def test_grouped_queries_are_repeated_key_heads(params, tokens):
  """Two key heads for four query heads = four, each pair alike."""
  wide = dataclasses.replace(CONFIG, num_kv_heads=CONFIG.num_heads)

  def repeat(path, leaf):
    if not any(k.key in ('k_proj', 'v_proj') for k in path):
      return leaf
    heads = leaf.reshape(*leaf.shape[:-1], CONFIG.num_kv_heads, -1)
    return jnp.repeat(heads, 2, axis=-2).reshape(*leaf.shape[:-1], -1)

  repeated = jax.tree_util.tree_map_with_path(repeat, params)
  grouped = forward(CONFIG, params, tokens)
  full = forward(wide, repeated, tokens)
  np.testing.assert_allclose(grouped, full, atol=1e-5)


def test_program_does_not_grow_with_depth(tokens):
  def program_size(layers):
    config = dataclasses.replace(CONFIG, num_layers=layers)
    params = jax.eval_shape(
      lambda: qwen2.init_params(config, jax.random.key(0))
    )
    return len(forward.lower(config, params, tokens).as_text())

  assert program_size(40) < 1.02 * program_size(qwen2.SHALLOW + 1)


def test_bfloat16_activations_give_float32_logits(params, tokens):
  config = dataclasses.replace(CONFIG, dtype='bfloat16')
  hidden = forward(config, params, tokens)
  assert hidden.dtype == jnp.bfloat16
  rough = qwen2.logits(config, params, hidden)
  assert rough.dtype == jnp.float32
  exact = qwen2.logits(CONFIG, params, forward(CONFIG, params, tokens))
  assert np.corrcoef(rough.ravel(), exact.ravel())[0, 1] > 0.99


def test_bfloat16_cache_is_near_the_exact_one(params, tokens):
  config = dataclasses.replace(CONFIG, cache_dtype='bfloat16')
  lengths = jnp.full(B, 5)
  _, cache = prefill(config, params, tokens[:, :5], lengths)
  assert cache.k.dtype == jnp.bfloat16
  _, cache = prefill(config, params, tokens, lengths)  # room for more
  hidden, cache = decode(config, params, tokens[:, 5], cache)
  assert cache.k.dtype == jnp.bfloat16 and hidden.dtype == jnp.float32
  exact = forward(CONFIG, params, tokens)[:, 5]
  assert np.corrcoef(hidden.ravel(), exact.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
  'name, millions', [('0.5b', 494), ('1.5b', 1544), ('3b', 3086), ('7b', 7616)]
)
def test_parameter_counts_of_the_released_sizes(name, millions):
  config = qwen2.CONFIGS[name]
  params = jax.eval_shape(lambda: qwen2.init_params(config, jax.random.key(0)))
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert round(count / 1e6) == millions


def test_unfit_sizes_are_refused():
  with pytest.raises(ValueError, match='num_kv_heads=3'):
    dataclasses.replace(CONFIG, num_kv_heads=3)
  with pytest.raises(ValueError, match='head_dim=5'):
    dataclasses.replace(CONFIG, head_dim=5)
  with pytest.raises(ValueError, match="remat='half'"):
    dataclasses.replace(CONFIG, remat='half')
  with pytest.raises(ValueError, match="'nope'"):
    qwen2.Lora(4, 8.0, targets=('q_proj', 'nope'))
  config = dataclasses.replace(CONFIG, attention='nope')
  with pytest.raises(ValueError, match="attention='nope'"):
    jax.eval_shape(
      lambda: qwen2.forward(
        config,
        qwen2.init_params(config, jax.random.key(0)),
        jnp.ones((1, 2), int),
      )
    )
