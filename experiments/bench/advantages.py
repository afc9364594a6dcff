"""Times the step-level estimators under jit beside NumPy and dictionaries.

  python -m experiments.bench.advantages [--json] [--large=0] [--depth=4 ...]

Two batches in the order in which the trainer makes them: the paper's, 16 tasks
x 8 episodes x 50 turns, and `--large` tasks x 16 x 50. Both sides see the same
rows and must agree to 1e-4. Of the large batch the reference sees 8 tasks, and
its time is scaled to all of them. `growth` is that of the time from one batch
to the other over that of n log n: at most 1 is no worse. Costs about 2 minutes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments.bench import harness
from hgpo_jax.advantages import ESTIMATORS, Rows
from tests import references, workloads

_TOLERANCE = 1e-4  # standard deviations, or reward units
_PART = 8  # tasks of the large batch that the reference sees

_GROUPS = flags.DEFINE_integer('groups', 16, 'Tasks.', lower_bound=1)
_EPISODES = flags.DEFINE_integer('episodes', 8, 'Per task.', lower_bound=1)
_LARGE = flags.DEFINE_integer(
  'large', 1024, 'Tasks of the large batch; 0 skips it.', lower_bound=0
)
flags.register_validator(
  'large', lambda large: large % _PART == 0, f'expected a multiple of {_PART}'
)
_STEPS = flags.DEFINE_integer('steps', 50, 'Turns per episode.', lower_bound=1)
_DEPTH = flags.DEFINE_integer('depth', 4, 'K, earlier states.', lower_bound=0)
_REPEATS = harness.repeats(30)


def measure() -> dict[str, Any]:
  """Times all estimators on both batches."""
  batches = [_batch(_GROUPS.value, _EPISODES.value, copies=1)]
  if _LARGE.value:
    batches.append(_batch(_PART, episodes=16, copies=_LARGE.value // _PART))
  table = []
  for label, name, options in _cases(_DEPTH.value):
    before: dict[str, Any] | None = None
    for rows, copies in batches:
      record = _measure(name, options, rows, copies)
      if before:
        record['growth'] = _growth(before, record)
      before = record
      table.append({'estimator': label, **record})
  device = jax.devices()[0].device_kind
  return {'device': device, 'depth': _DEPTH.value, 'table': table}


def _cases(depth: int) -> list[tuple[str, str, dict[str, Any]]]:
  """What is timed: label, name of the estimator, its options."""
  return [
    ('gigpo', 'gigpo', {}),
    ('hgpo', 'hgpo', {'depth': depth}),
    (
      'hgpo, states + actions',
      'hgpo',
      {'depth': depth, 'contexts': 'states_actions'},
    ),
    ('hgpo_shrink', 'hgpo_shrink', {'depth': depth}),
    ('turn_index', 'turn_index', {}),
    ('salt', 'salt', {}),
  ]


def _batch(groups: int, episodes: int, copies: int) -> tuple[Rows, int]:
  """Rows of groups x copies tasks, and the number of copies.

  Returns of the copies are times a factor, so that no two tasks are alike;
  observations are numbered within each task, as the trainer's are.
  """
  rows = workloads.random_trajectories(
    0,
    groups=groups,
    episodes=episodes,
    steps=_STEPS.value,
    min_steps=_STEPS.value,
    observations=30,
  )
  order = np.lexsort((rows.turn, rows.traj))
  rows = jax.tree.map(lambda x: x[order], rows)
  copy = np.repeat(np.arange(copies), order.size)
  rows = jax.tree.map(lambda x: np.tile(x, copies), rows)
  apart = {'task': groups, 'traj': groups * episodes}
  columns = {
    name: (getattr(rows, name) + count * copy).astype(np.int32)
    for name, count in apart.items()
  }
  factor = (1 + copy / copies).astype(np.float32)
  return dataclasses.replace(
    rows,
    returns=rows.returns * factor,
    episode_return=rows.episode_return * factor,
    **columns,
  ), copies


def _measure(
  name: str, options: dict[str, Any], rows: Rows, copies: int
) -> dict[str, Any]:
  """Times an estimator and, on the first copy's rows, its reference.

  Raises:
    AssertionError: they differ.
  """
  jitted = jax.jit(functools.partial(ESTIMATORS[name], **options))
  on_device = workloads.as_jax(rows)
  actual = np.asarray(jitted(on_device))
  size = len(rows.mask) // copies
  part = jax.tree.map(lambda x: x[:size], rows)
  watch = harness.Stopwatch()
  reference = functools.partial(references.REFERENCES[name], **options)
  expected = watch('numpy', reference, part)
  difference = float(np.abs(actual[:size] - expected).max())
  if not difference <= _TOLERANCE:
    raise AssertionError(
      f'Got a difference of {difference:.2g}, expected at most {_TOLERANCE}: '
      f'one of {name} and its reference is wrong.'
    )
  repeats = _REPEATS.value if copies == 1 else max(_REPEATS.value // 6, 1)
  jit = harness.median_seconds(repeats, jit=lambda: jitted(on_device))['jit']
  return {
    'rows': len(rows.mask),
    'jit_ms': 1e3 * jit,
    'numpy_ms': 1e3 * watch.median('numpy') * copies,
    'difference': difference,
  }


def _growth(small: dict[str, Any], large: dict[str, Any]) -> float:
  """Growth of the time over that of n log n; at most 1 is no worse."""

  def work(record: dict[str, Any]) -> float:
    return record['rows'] * math.log(record['rows'])

  return large['jit_ms'] / small['jit_ms'] / (work(large) / work(small))


if __name__ == '__main__':
  harness.main(measure)
