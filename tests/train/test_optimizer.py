"""AdamW's schedule, its mask, and moments that are kept in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hgpo_jax.train import optimizer as optimizer_lib


def trained(optimizer, steps=60):
  """Weights and state after noisy gradients towards 1."""
  weights = {'w': jnp.zeros((8, 4)), 'bias': jnp.zeros(4)}
  state = optimizer.init(weights)

  @jax.jit
  def step(weights, state, key):
    noise = jax.random.normal(key, (8, 4))
    grads = {'w': weights['w'] - 1 + noise, 'bias': weights['bias'] - 1}
    updates, state = optimizer.update(grads, state, weights)
    return optax.apply_updates(weights, updates), state

  for key in jax.random.split(jax.random.key(0), steps):
    weights, state = step(weights, state, key)
  return weights, state


def test_decay_spares_norms_and_biases():
  tree = {
    'layers': {
      'attention_norm': {'scale': 1},
      'q_proj': {'bias': 1, 'kernel': 1},
    },
    'embed': 1,
  }
  assert optimizer_lib.decay_mask(tree) == {
    'layers': {
      'attention_norm': {'scale': False},
      'q_proj': {'bias': False, 'kernel': True},
    },
    'embed': True,
  }


def make(**changes):
  options = {
    'learning_rate': 1.0,
    'warmup_steps': 4,
    'decay_steps': 10,
    'weight_decay': 0.0,
    'clip_norm': 1e9,
    'b1': 0.0,
    'b2': 0.0,
  }
  return optimizer_lib.make_optimizer(**{**options, **changes})


def test_the_schedule_warms_up_and_decays():
  optimizer = make()
  weights = {'w': jnp.ones(())}
  state, sizes = optimizer.init(weights), []
  for _ in range(15):
    updates, state = optimizer.update({'w': jnp.ones(())}, state, weights)
    sizes.append(-float(updates['w']))
  np.testing.assert_allclose(sizes[:5], [0.2, 0.4, 0.6, 0.8, 1.0], atol=1e-3)
  np.testing.assert_allclose(sizes[14], 0.1, atol=1e-3)


def test_moments_in_float32_are_plain_adamw():
  plain = optax.adamw(0.05, b2=0.98)
  for a, b in zip(
    jax.tree.leaves(trained(plain)),
    jax.tree.leaves(trained(optimizer_lib.stored_as('float32', plain))),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


def test_moments_in_bfloat16_are_small_and_stay_close():
  plain = optax.adamw(0.05, b2=0.999)
  weights, _ = trained(plain)
  near, state = trained(optimizer_lib.stored_as('bfloat16', plain))
  arrays = [x for x in jax.tree.leaves(state) if x.ndim]
  assert len(arrays) == 4  # two moments of two weights
  assert {x.dtype for x in arrays} == {jnp.dtype('bfloat16')}
  assert int(state.updates) == 60
  for name in weights:
    np.testing.assert_allclose(near[name], weights[name], atol=0.05)


def test_a_slow_second_moment_still_moves():
  """Rounded to the nearest, a decay of 0.1 % would be lost every time."""
  adam = optimizer_lib.stored_as('bfloat16', optax.scale_by_adam(b2=0.999))
  weights = jnp.ones(4096)
  state = adam.init(weights)
  update = jax.jit(adam.update)
  _, state = update(jnp.ones(4096), state)
  for _ in range(200):
    _, state = update(jnp.zeros(4096), state)
  nu = np.asarray(state.inner.nu, np.float32)
  assert nu.mean() == pytest.approx(0.001 * 0.999**200, rel=0.01)


def test_stochastic_rounding_is_right_on_average():
  x = jnp.array([1.001, -3.1415, 1e-20, 0.0, 2.0])
  rounded = jax.vmap(lambda k: optimizer_lib.stochastic_round(x, k))(
    jax.random.split(jax.random.key(0), 20_000)
  )
  assert rounded.dtype == jnp.bfloat16
  rounded = np.asarray(rounded, np.float64)
  np.testing.assert_allclose(rounded.mean(0), x, rtol=1e-4)
  assert (rounded[:, 3:] == [0, 2]).all()  # what fits is kept
  assert np.unique(rounded[:, 0]).size == 2  # the two neighbours


def test_another_type_is_refused():
  with pytest.raises(ValueError, match="'float16'.*'bfloat16'"):
    make(moments_dtype='float16')


@pytest.mark.parametrize('moments', ['float32', 'bfloat16'])
@pytest.mark.parametrize('params', ['float32', 'bfloat16', 'float16'])
def test_moments_keep_their_type_whatever_the_params_have(moments, params):
  """A state that changed its types would be compiled, and not restored."""
  optimizer = make(moments_dtype=moments, b1=0.9, b2=0.99)
  weights = {'w': jnp.ones((3, 2), params)}
  state = optimizer.init(weights)
  grads = {'w': jnp.ones((3, 2), jnp.float32)}
  _, moved = optimizer.update(grads, state, weights)
  types = [str(x.dtype) for x in jax.tree.leaves(state) if x.ndim]
  assert types == [moments] * 2
  assert [str(x.dtype) for x in jax.tree.leaves(moved) if x.ndim] == types
