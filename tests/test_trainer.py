"""The whole loop on a tiny world: it learns, and a resumed run is unbroken."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from experiments.configs import toy
from hgpo_jax.train import checkpoint, trainer


def config(**changes):
  c = toy.get_config().unlock()
  c.update_from_flattened_dict(changes)
  return c


def lines(folder):
  """The records of a run without their timing."""
  records = map(json.loads, (folder / 'metrics.jsonl').read_text().splitlines())
  return [
    {k: v for k, v in r.items() if not k.startswith('time/')} for r in records
  ]


def test_hgpo_learns_from_random_init_and_its_negation_unlearns(tmp_path):
  summary = trainer.train(config(), tmp_path / 'up')
  before, after = summary['warm_start'], summary['final']
  assert before['valid']['1.0']['success'] < 0.5
  assert after['train']['1.0']['success'] >= 0.9
  assert after['valid']['1.0']['success'] >= 0.9
  first = lines(tmp_path / 'up')[0]
  assert first['update/first_ratio_error'] < 1e-5
  assert first['update/first_kl_ref'] < 1e-7
  down = trainer.train(
    config(**{'algo.advantage_sign': -1.0, 'iterations': 10}), tmp_path / 'down'
  )
  assert (
    down['final']['train']['1.0']['success']
    < before['train']['1.0']['success'] + 1e-9
  )
