"""What benchmarks share: medians, the device's ceilings, counts of work."""

from __future__ import annotations

import json
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from hgpo_jax.model.interface import Config


def median_seconds(call: Callable[[], Any], repeats: int) -> float:
  """Median wall time of a call, its results awaited."""
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(call())
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds)


def copy_bandwidth() -> float:
  """Bytes per second, read and written, of a copy too large for any cache."""
  size = 2**28 if jax.default_backend() == 'cpu' else 2**32  # bytes
  x = jax.random.bits(jax.random.key(0), (size // 4,), jnp.uint32)
  copy = jax.jit(lambda x: x + 1)
  jax.block_until_ready(copy(x))
  return 2 * size / median_seconds(lambda: copy(x), 7)


def matrix_rate(dtype: str) -> float:
  """Operations per second of a large square matrix product of random data."""
  n = 2048 if jax.default_backend() == 'cpu' else 8192
  a, b = jax.random.normal(jax.random.key(0), (2, n, n), dtype)
  product = jax.jit(jnp.matmul)
  jax.block_until_ready(product(a, b))
  return 2 * n**3 / median_seconds(lambda: product(a, b), 7)


def peak_memory_bytes() -> int:
  """Most memory ever held: of the device, or of this process on a CPU."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and 'peak_bytes_in_use' in stats:
    return stats['peak_bytes_in_use']
  return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def report(results: Mapping[str, Any], as_json: bool) -> None:
  """Prints a table, and one JSON object as the last line where wanted."""
  for name, value in results.items():
    shown = f'{value:,.4g}' if isinstance(value, float) else f'{value}'
    print(f'{name:32s}{shown:>24}')
  if as_json:
    print(json.dumps(results))


def round_up(size: int, multiple: int) -> int:
  return -(-size // multiple) * multiple


def block_params(config: Config) -> int:
  """Weights that one token is multiplied with in all blocks."""
  heads = 2 * config.num_heads + 2 * config.num_kv_heads
  attention = config.width * config.head_dim * heads
  return config.num_layers * (attention + 3 * config.width * config.ff_width)


def train_operations(
  config: Config, lengths: Sequence[int], unembedded: int
) -> float:
  """Operations of forward and backward: 6 per weight and token, and attention.

  A token attends to half of its own text on average, in two products of
  2 N H operations per pair; see Kaplan et al. 2020, sec. 2.1
  (https://arxiv.org/abs/2001.08361), without recomputation.

  Args:
    config: the model's size.
    lengths: tokens of each text.
    unembedded: tokens whose logits are computed.
  """
  tokens, pairs = sum(lengths), sum(n * n for n in lengths) / 2
  heads = config.num_layers * config.num_heads * config.head_dim
  return (
    6.0 * block_params(config) * tokens
    + 6.0 * config.vocab_size * config.width * unembedded
    + 12.0 * heads * pairs
  )


def decode_bytes(config: Config, rows: int, context: float) -> float:
  """Bytes that a decode step must read: weights, and the rows' own caches.

  Args:
    config: the model's size; weights count in its `dtype`.
    rows: that decode together.
    context: tokens of each in the cache.
  """
  head = config.vocab_size * config.width
  weights = (block_params(config) + head) * jnp.dtype(config.dtype).itemsize
  cached = 2 * config.num_layers * config.num_kv_heads * config.head_dim
  cached *= jnp.dtype(config.cache_dtype).itemsize
  return weights + rows * context * cached
