"""The kernel for TPU, interpreted, against the attention written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from hgpo_jax.model import attention, sharding

SEGMENTS = np.repeat([1, 2, 0], [50, 60, 18])[None].repeat(4, axis=0)


def heads(*numbers, size):
  rng = np.random.default_rng(0)
  return [
    jnp.asarray(rng.normal(size=(4, n, 128, size)), jnp.float32)
    for n in numbers
  ]


@pytest.mark.parametrize(
  ('length', 'packed'),
  [  # a whole block, or less
    (128, False),
    (100, True),
    pytest.param(128, True, marks=pytest.mark.slow),
    pytest.param(100, False, marks=pytest.mark.slow),
  ],
)
def test_tpu_kernel_is_the_plain_attention(length, packed):
  q, k, v = (x[:, :, :length] for x in heads(4, 2, 2, size=128))
  segments = jnp.asarray(SEGMENTS[:, :length])
  context = attention.Context(segments if packed else None)
  with pltpu.force_tpu_interpret_mode():
    actual = jax.jit(attention.tpu_flash)(q, k, v, context)
  expected = attention.plain(q, k, v, context)
  real = SEGMENTS[0, :length] > 0
  np.testing.assert_allclose(
    np.asarray(actual)[:, :, real], np.asarray(expected)[:, :, real], atol=2e-5
  )


@pytest.mark.parametrize('sizes', [(2, 2, 2), (1, 8, 1)])
@pytest.mark.parametrize('ids', [None, SEGMENTS])
def test_a_kernel_gets_each_devices_rows_and_heads(sizes, ids):
  """Where the mesh divides them: 8 do not divide 4 rows."""
  q, k, v = heads(4, 4, 4, size=8)
  seen = []

  def kernel(q, k, v, ids):
    seen.append(q.shape)
    return attention.plain(q, k, v, attention.Context(ids))

  with jax.set_mesh(sharding.make_mesh(*sizes)):
    fn = jax.jit(attention._on_each_device, static_argnums=0)
    actual = fn(kernel, q, k, v, ids)
  expected = attention.plain(q, k, v, attention.Context(ids))
  np.testing.assert_allclose(actual, expected, atol=1e-5)
  assert seen[0] == ((1, 2, 128, 8) if sizes == (2, 2, 2) else q.shape)
