"""Times HGPO's grouping and advantages under jit beside NumPy and dictionaries.

  python -m experiments.bench_advantages [--json] [--groups=16 --depth=4 ...]

Both see the same rows and must agree to 1e-5. Costs a few seconds.
"""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import app, flags

from hgpo_jax import testing
from hgpo_jax.advantages import ESTIMATORS

_JSON = flags.DEFINE_bool('json', False, 'One JSON object as the last line.')
_GROUPS = flags.DEFINE_integer('groups', 16, 'Tasks.', lower_bound=1)
_EPISODES = flags.DEFINE_integer('episodes', 8, 'Per task.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 50, 'Turns per episode.', lower_bound=1)
_DEPTH = flags.DEFINE_integer('depth', 4, 'K, earlier states.', lower_bound=0)
_REPEATS = flags.DEFINE_integer('repeats', 30, 'Timed calls.', lower_bound=1)

_TOLERANCE = 1e-5


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Got {argv[1:]}, expected flags only.')
  rows = testing.random_trajectories(
    0,
    groups=_GROUPS.value,
    episodes=_EPISODES.value,
    steps=_STEPS.value,
    min_steps=_STEPS.value,
    observations=30,
  )
  on_device = testing.as_jax(rows)
  jitted = jax.jit(functools.partial(ESTIMATORS['hgpo'], depth=_DEPTH.value))
  reference = functools.partial(testing.reference_hgpo, depth=_DEPTH.value)

  start = time.perf_counter()
  actual = jax.block_until_ready(jitted(on_device))
  compile_ms = 1e3 * (time.perf_counter() - start)
  gap = float(np.abs(actual - reference(rows)).max())
  if not gap <= _TOLERANCE:
    raise AssertionError(
      f'Got a difference of {gap:.2g}, expected at most {_TOLERANCE}: one of '
      'step.hgpo and testing.reference_hgpo is wrong.'
    )

  hgpo_ms = _median_ms(
    lambda: jax.block_until_ready(jitted(on_device)), _REPEATS.value
  )
  numpy_ms = _median_ms(lambda: reference(rows), min(_REPEATS.value, 5))
  results = {
    'rows': len(rows.mask),
    'levels': _DEPTH.value + 1,
    'device': jax.devices()[0].device_kind,
    'compile_ms': round(compile_ms, 1),
    'hgpo_ms': round(hgpo_ms, 3),
    'numpy_ms': round(numpy_ms, 3),
    'max_difference': float(f'{gap:.2g}'),
  }
  for name, value in results.items():
    print(f'{name:16s}{value:>16}')
  if _JSON.value:
    print(json.dumps(results))


def _median_ms(call: Callable[[], Any], repeats: int) -> float:
  """Median wall time of a call, in milliseconds."""
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    call()
    seconds.append(time.perf_counter() - start)
  return 1e3 * statistics.median(seconds)


if __name__ == '__main__':
  app.run(main)
