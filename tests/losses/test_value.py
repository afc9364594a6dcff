"""The critic's loss by hand, and its limits."""

import jax
import numpy as np
import pytest

from hgpo_jax.losses import value

HAND = [
  # V, V_old, G: loss and whether the clip of 0.5 bound
  (1.0, 1.0, 3.0, 2.0, 0),  # has not moved: 1/2 2^2
  (1.4, 1.0, 3.0, 1.28, 0),  # within the clip: 1/2 1.6^2
  (2.0, 1.0, 3.0, 1.125, 1),  # moved past it: held at 1.5, 1/2 1.5^2
  (0.0, 1.0, 3.0, 4.5, 0),  # moved away: the free error is the larger
  (4.0, 3.8, 3.0, 0.5, 0),  # overshot, within the clip
]


def test_hand_numbers():
  v, old, target, loss, clipped = (
    np.array([c]) for c in zip(*HAND, strict=True)
  )
  found = value.clipped_error(v, old, target, clip=0.5)
  np.testing.assert_allclose(found.loss, loss, rtol=1e-6)
  np.testing.assert_array_equal(found.clipped, clipped)
  free = value.clipped_error(v, old, target, clip=np.inf)
  np.testing.assert_allclose(free.loss, (v - target) ** 2 / 2, rtol=1e-6)
  assert not free.clipped.any()


def test_what_has_moved_far_enough_is_not_pulled_and_the_rest_by_its_error():
  v, old, target, _, clipped = (np.array([c]) for c in zip(*HAND, strict=True))
  slope = jax.grad(
    lambda *x: value.clipped_error(*x, clip=0.5).loss.sum(), argnums=(0, 1, 2)
  )
  of_values, of_old, of_targets = slope(v, old, target)
  np.testing.assert_allclose(of_values, (v - target) * (1 - clipped), rtol=1e-6)
  assert not of_old.any()
  assert not of_targets.any()


@pytest.mark.parametrize('clip', [0.0, -1.0, np.nan])
def test_a_clip_that_forbids_learning_is_refused(clip):
  with pytest.raises(ValueError, match=f'clip={clip}'):
    value.clipped_error(*np.ones((3, 1, 2)), clip=clip)
