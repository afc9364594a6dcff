"""What all benchmarks share: the command, timing, and the device's ceilings.

A benchmark is a file with its flags and one function, which returns what it
measured: name -> number, text, or records that are printed as a table. At its
end stands `harness.main(function)`.
"""

from __future__ import annotations

import collections
import json
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import pandas as pd
from absl import flags

from envs.base import EnvError
from experiments import command

T = TypeVar('T')

_JSON = flags.DEFINE_bool('json', False, 'One JSON object as the last line.')


def repeats(default: int) -> flags.FlagHolder[int]:
  """Defines --repeats, for a benchmark that times a call several times."""
  return flags.DEFINE_integer('repeats', default, 'Timed calls.', lower_bound=1)


def main(
  measure: Callable[[], dict[str, Any]],
  check: Callable[[dict[str, Any]], None] = lambda results: None,
) -> None:
  """Runs a benchmark as a command: measures, and prints what was found.

  Args:
    measure: makes the results.
    check: looks at them when they are printed; may end the program.
  """

  def run() -> None:
    results = measure()
    print(text(results))
    if _JSON.value:
      print(json.dumps(results))
    check(results)

  command.run(run, EnvError)


def text(results: Mapping[str, Any]) -> str:
  """A line for each number, and a table for each list of records."""
  lines = []
  for name, value in results.items():
    if isinstance(value, list):
      table = pd.DataFrame(value).to_string(
        index=False, float_format='{:,.4g}'.format, na_rep=''
      )
      lines.append(f'\n{table}\n')
    else:
      shown = f'{value:,.4g}' if isinstance(value, float) else f'{value}'
      lines.append(f'{name:34s}{shown:>24}')
  return '\n'.join(lines).strip('\n')


class Stopwatch:
  """Seconds that calls took, by name.

  Attributes:
    seconds: name -> seconds of each of its calls, in order.
  """

  def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
    self.seconds: dict[str, list[float]] = collections.defaultdict(list)
    self._clock = clock

  def __call__(self, name: str, call: Callable[..., T], *args: Any) -> T:
    """Makes a call and returns what it does."""
    start = self._clock()
    result = call(*args)
    self.seconds[name].append(self._clock() - start)
    return result

  def median(self, name: str) -> float:
    """Seconds of a call, the middle one of all."""
    return statistics.median(self.seconds[name])

  def rate(self, name: str) -> float:
    """Calls per second, over all of them."""
    return len(self.seconds[name]) / sum(self.seconds[name])


def median_seconds(count: int, **calls: Callable[[], Any]) -> dict[str, float]:
  """Median wall time of each call, its arrays awaited.

  The calls take turns, so that what else the machine does falls on all of them.
  Each is first called once untimed, to compile.

  Args:
    count: timed calls of each.
    **calls: name -> what is timed.
  """
  watch = Stopwatch()

  def awaited(name: str) -> Any:
    return jax.block_until_ready(calls[name]())

  for name in calls:
    awaited(name)
  for _ in range(count):
    for name in calls:
      watch(name, awaited, name)
  return {name: watch.median(name) for name in calls}


def copy_bandwidth() -> float:
  """Bytes per second, read and written, of a copy too large for any cache."""
  size = 2**28 if jax.default_backend() == 'cpu' else 2**32  # bytes
  x = jax.random.bits(jax.random.key(0), (size // 4,), jnp.uint32)
  copy = jax.jit(lambda x: x + 1)
  return 2 * size / median_seconds(7, copy=lambda: copy(x))['copy']


def matrix_rate(dtype: str) -> float:
  """Operations per second of a large square matrix product of random data."""
  n = 2048 if jax.default_backend() == 'cpu' else 8192
  a, b = jax.random.normal(jax.random.key(0), (2, n, n), dtype)
  product = jax.jit(jnp.matmul)
  return 2 * n**3 / median_seconds(7, product=lambda: product(a, b))['product']


def peak_memory_bytes() -> int:
  """Most memory ever held: of the device, or of this process on a CPU."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and 'peak_bytes_in_use' in stats:
    return stats['peak_bytes_in_use']
  return peak_process_bytes()


def peak_process_bytes() -> int:
  """Most memory that this process has ever held."""
  return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
