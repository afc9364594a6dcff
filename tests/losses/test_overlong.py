"""DAPO's length penalty by hand."""

import numpy as np
import pytest

from hgpo_jax.losses.overlong import overlong_penalty


def test_penalty_by_hand():
  lengths = np.array([0, 16384, 18432, 20480, 99999])
  np.testing.assert_allclose(
    overlong_penalty(lengths, longest=20480, buffer=4096),
    [0, 0, -0.5, -1, -1],
  )
  np.testing.assert_allclose(
    overlong_penalty(lengths[:3] // 1024, longest=20, buffer=20, penalty=4.0),
    [0, -3.2, -3.6],
    rtol=1e-6,
  )
  with pytest.raises(ValueError, match='1 to longest=8'):
    overlong_penalty(lengths, longest=8, buffer=9)
