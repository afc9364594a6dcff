"""The typical changes: each takes what the documentation says, and no more."""

import importlib
import sys

import numpy as np
import pytest

from experiments.configs import toy
from hgpo_jax.advantages import ESTIMATORS
from hgpo_jax.train import loop
from tests.runs import records

CENTRED = """
import jax
from hgpo_jax.advantages import Rows, segments

seen = []

def centred(rows: Rows, *, scale: float = 0.5) -> jax.Array:
  seen.append(scale)
  moments = segments.batch_moments(rows.returns, rows.mask)
  return scale * moments.centred
"""


@pytest.fixture
def new_module(tmp_path, monkeypatch):
  """Writes a module into a folder of its own and imports it."""

  def write(name, text):
    (tmp_path / f'{name}.py').write_text(text)
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)  # nothing is left after the test
    return module

  monkeypatch.syspath_prepend(tmp_path)
  return write


def test_a_new_estimator_is_a_function_and_an_entry(
  new_module, monkeypatch, tmp_path
):
  module = new_module('my_estimator', CENTRED)
  monkeypatch.setitem(ESTIMATORS, 'centred', module.centred)
  config = toy.get_config().unlock()
  config.iterations = 1
  config.algo.estimator = 'centred'
  config.eval.splits = ()
  loop.train(config, tmp_path / 'run')
  (metrics,) = records(tmp_path / 'run')
  assert set(module.seen) == {0.5}  # the default of its signature
  assert np.isfinite(metrics['update/loss'])
  assert metrics['update/grad_norm'] > 0
