"""Rotary positions against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np

from hgpo_jax.model import rotary


def test_segment_positions_start_anew():
  segments = jnp.asarray([[0, 1, 1, 2, 2, 2, 0, 3], [1, 0, 1, 1, 4, 4, 0, 0]])
  positions = rotary.segment_positions(segments)
  expected = [[0, 0, 1, 0, 1, 2, 0, 0], [0, 0, 1, 2, 0, 1, 0, 0]]
  there = np.asarray(segments > 0)
  np.testing.assert_array_equal(positions[there], np.asarray(expected)[there])


def test_table_is_the_angle_of_every_position():
  cos, sin = rotary.table(head_dim=4, base=100.0, length=3)
  angles = [[0, 0], [1, 0.1], [2, 0.2]]  # base^-(0/2), base^-(1/2)
  np.testing.assert_allclose(cos, np.cos(angles), atol=1e-7)
  np.testing.assert_allclose(sin, np.sin(angles), atol=1e-7)


def test_products_depend_on_the_distance_alone():
  cos, sin = rotary.table(head_dim=8, base=1e4, length=12)
  keys = jax.random.normal(jax.random.key(0), (2, 8))
  q, k = (jnp.tile(x, (1, 1, 12, 1)) for x in keys)  # [B, heads, L, H]
  q, k = (rotary.rotate(x, cos[None, None], sin[None, None]) for x in (q, k))
  products = q[0, 0] @ k[0, 0].T  # [L, L]
  for distance in range(-11, 12):
    same = jnp.diagonal(products, distance)
    np.testing.assert_allclose(same, same[0], atol=1e-5)
  np.testing.assert_allclose(products[0, 0], keys[0] @ keys[1], atol=1e-5)
