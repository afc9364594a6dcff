"""A new estimator takes a function and an entry, and no more.

A new world is tried in tests/envs/test_worlds_readme.py, a new model in
tests/model/test_registry.py.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np

from tests.runs import records

ROOT = pathlib.Path(__file__).resolve().parents[2]

CENTRED = """
import runpy

import jax

from hgpo_jax.advantages import ESTIMATORS, Rows, segments


def centred(rows: Rows, *, scale: float = 0.0) -> jax.Array:
  moments = segments.batch_moments(rows.returns, rows.mask)
  return scale * moments.centred


ESTIMATORS['centred'] = centred
runpy.run_module('experiments.train', run_name='__main__', alter_sys=True)
"""


def test_a_new_estimator_is_a_function_and_an_entry(tmp_path):
  """The training command knows it, and its options are flags."""
  (tmp_path / 'my_estimator.py').write_text(CENTRED)
  folder = tmp_path / 'run'
  done = subprocess.run(
    [
      sys.executable,
      str(tmp_path / 'my_estimator.py'),
      '--config=experiments/configs/toy.py',
      '--config.algo.estimator=centred',
      '--config.algo.centred.scale=0.5',
      '--config.iterations=1',
      '--config.eval.games=-1',
      f'--config.run_dir={folder}',
    ],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  config = json.loads((folder / 'config.json').read_text())
  assert config['algo']['centred'] == {'scale': 0.5}
  (metrics,) = records(folder)
  assert np.isfinite(metrics['update/loss'])
  assert metrics['update/grad_norm'] > 0
