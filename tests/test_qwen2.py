"""Qwen2.5: equal to the released architecture, however it is called."""

import dataclasses
import itertools
import pathlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hgpo_jax.policy import qwen2

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'qwen2_tiny.npz'
CONFIG = qwen2.Config(
  vocab_size=50,
  width=16,
  ff_width=32,
  num_layers=3,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  dtype='float32',
)
B, L = 3, 8

forward = jax.jit(qwen2.forward, static_argnames=('config', 'last'))
prefill = jax.jit(qwen2.prefill, static_argnames=('config', 'slots', 'last'))


@pytest.fixture(scope='module')
def params():
  """Larger than at initialisation, so that attention is far from uniform."""
  init = jax.jit(qwen2.init_params, static_argnums=0)
  params = init(CONFIG, jax.random.key(0))
  return jax.tree.map(lambda a: a * 20 if a.ndim > 1 else a, params)


@pytest.fixture(scope='module')
def tokens():
  return jax.random.randint(jax.random.key(1), (B, L), 0, CONFIG.vocab_size)


@pytest.mark.parametrize('head', ['tied', 'untied'])
def test_logits_match_transformers(head):
  golden = np.load(GOLDEN)
  sizes = [int(n) for n in golden['sizes']]
  config = qwen2.Config(
    *sizes,
    rope_base=float(golden['rope_base']),
    norm_eps=float(golden['norm_eps']),
    tied_head=head == 'tied',
    dtype='float32',
  )
  flat = {
    tuple(k.split('/')[1:]): golden[k]
    for k in golden.files
    if k.startswith('params/') and not (head == 'tied' and k == 'params/head')
  }
  params = flax.traverse_util.unflatten_dict(flat)
  shapes = jax.eval_shape(lambda: qwen2.init_params(config, jax.random.key(0)))
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
  hidden, _ = forward(config, params, golden['tokens'], golden['valid'])
  actual = qwen2.logits(config, params, hidden)
  assert actual.dtype == jnp.float32
  valid = golden['valid']
  np.testing.assert_allclose(actual[valid], golden[head][valid], atol=1e-4)


@pytest.mark.parametrize('edges', [(4, 5, 6, 7, 8), (4, 8)])
def test_cached_equals_full_forward(params, tokens, edges):
  valid = jnp.arange(L) >= jnp.array([[0], [2], [3]])
  full, none = forward(CONFIG, params, tokens, valid)
  assert none is None
  start = edges[0]
  hidden, cache = prefill(
    CONFIG, params, tokens[:, :start], valid[:, :start], slots=L + 2
  )
  parts = [hidden]
  for i, j in itertools.pairwise(edges):  # one by one, or a chunk at once
    hidden, cache = forward(
      CONFIG, params, tokens[:, i:j], valid[:, i:j], cache
    )
    parts.append(hidden)
  assert int(cache.next) == L
  np.testing.assert_array_equal(cache.valid[:, :L], valid)
  np.testing.assert_allclose(
    np.concatenate(parts, axis=1)[valid], full[valid], atol=2e-5
  )


def test_empty_cache_is_no_cache(params, tokens):
  valid = jnp.ones((B, L), bool)
  cache = qwen2.init_cache(CONFIG, B, L)
  cached, _ = forward(CONFIG, params, tokens, valid, cache)
  full, _ = forward(CONFIG, params, tokens, valid)
  np.testing.assert_allclose(cached, full, atol=2e-5)


def test_left_padding_changes_nothing(params, tokens):
  pads = 3
  real = tokens[:, pads:]
  full, _ = forward(CONFIG, params, real, jnp.ones(real.shape, bool))
  for filler in (0, 7):
    padded = tokens.at[:, :pads].set(filler)
    valid = jnp.broadcast_to(jnp.arange(L) >= pads, (B, L))
    hidden, _ = forward(CONFIG, params, padded, valid)
    np.testing.assert_allclose(hidden[:, pads:], full, atol=1e-5)


def test_row_without_any_token_is_finite(params, tokens):
  valid = jnp.ones((B, L), bool).at[1].set(False)
  hidden, _ = forward(CONFIG, params, tokens, valid)
  assert np.isfinite(hidden).all()


@pytest.mark.parametrize('last', [1, L])
def test_last_is_the_tail_of_the_full_forward(params, tokens, last):
  valid = jnp.arange(L) >= jnp.array([[0], [2], [3]])
  full, _ = forward(CONFIG, params, tokens, valid)
  tail, _ = forward(CONFIG, params, tokens, valid, last=last)
  assert tail.shape == (B, last, CONFIG.width)
  np.testing.assert_allclose(tail, full[:, -last:], atol=1e-5)


def test_later_tokens_are_not_seen(params, tokens):
  valid = jnp.ones((B, L), bool)
  hidden, _ = forward(CONFIG, params, tokens, valid)
  changed, _ = forward(CONFIG, params, tokens.at[:, 5:].add(1) % 50, valid)
  np.testing.assert_array_equal(hidden[:, :5], changed[:, :5])
  assert np.abs(hidden[:, 5:] - changed[:, 5:]).max() > 1e-3


def test_grouped_queries_are_repeated_key_heads(params, tokens):
  """Two key heads for four query heads = four, each pair alike."""
  wide = dataclasses.replace(CONFIG, num_kv_heads=CONFIG.num_heads)

  def repeat(path, leaf):
    if not any(k.key in ('k_proj', 'v_proj') for k in path):
      return leaf
    heads = leaf.reshape(*leaf.shape[:-1], CONFIG.num_kv_heads, -1)
    return jnp.repeat(heads, 2, axis=-2).reshape(*leaf.shape[:-1], -1)

  repeated = jax.tree_util.tree_map_with_path(repeat, params)
  valid = jnp.ones((B, L), bool)
  grouped, _ = forward(CONFIG, params, tokens, valid)
  full, _ = forward(wide, repeated, tokens, valid)
  np.testing.assert_allclose(grouped, full, atol=1e-5)


def test_program_does_not_grow_with_depth(tokens):
  def program_size(layers):
    config = dataclasses.replace(CONFIG, num_layers=layers)
    params = jax.eval_shape(
      lambda: qwen2.init_params(config, jax.random.key(0))
    )
    valid = jnp.ones((B, L), bool)
    return len(forward.lower(config, params, tokens, valid).as_text())

  assert program_size(40) < 1.02 * program_size(4)


def test_bfloat16_activations_give_float32_logits(params, tokens):
  config = dataclasses.replace(CONFIG, dtype='bfloat16')
  valid = jnp.ones((B, L), bool)
  hidden, _ = forward(config, params, tokens, valid)
  assert hidden.dtype == jnp.bfloat16
  rough = qwen2.logits(config, params, hidden)
  assert rough.dtype == jnp.float32
  exact = qwen2.logits(
    CONFIG, params, forward(CONFIG, params, tokens, valid)[0]
  )
  assert np.corrcoef(rough.ravel(), exact.ravel())[0, 1] > 0.99


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
