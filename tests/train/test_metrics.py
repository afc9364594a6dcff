"""Records on disk: cut on resume, never twice, never half."""

import json

from hgpo_jax.train import metrics


def read(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_resumed_metrics_have_every_step_once(tmp_path):
  log = metrics.Metrics(tmp_path, first=0, last=4, label='x')
  for step in range(4):
    log.write(step, {'a': float(step)})
  log.close()
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 4, "a"')  # killed while writing
  log = metrics.Metrics(tmp_path, first=2, last=4, label='x')
  log.write(2, {'a': 20.0})
  log.close()
  assert [(r['step'], r['a']) for r in read(tmp_path)] == [
    (0, 0.0), (1, 1.0), (2, 20.0)]  # fmt: skip


def test_numbers_that_are_not_finite_stay_readable(tmp_path):
  log = metrics.Metrics(tmp_path, first=0, last=1, label='x')
  log.write(0, {'a': float('nan'), 'b': 2})
  log.advance({'update/entropy': 0.5})
  log.close()
  assert read(tmp_path) == [{'step': 0, 'a': None, 'b': 2}]
  assert list((tmp_path / 'tensorboard').iterdir())
