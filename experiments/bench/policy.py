"""The policy that is timed: its flags, random weights, turns, and its work."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from hgpo_jax import types
from hgpo_jax.model import qwen2, weights

PRESET = flags.DEFINE_enum('preset', 'small', list(qwen2.CONFIGS), 'Size.')
_LAYERS = flags.DEFINE_integer('layers', 0, "Blocks; 0 keeps the preset's.")
DTYPE = flags.DEFINE_enum(
  'dtype', 'float32', ['float32', 'bfloat16'], 'Of activations and cache.'
)


def config(**changes: Any) -> qwen2.Config:
  """The policy that the flags describe, with other fields where wanted."""
  preset = qwen2.CONFIGS[PRESET.value]
  return dataclasses.replace(
    preset,
    num_layers=_LAYERS.value or preset.num_layers,
    dtype=DTYPE.value,
    cache_dtype=DTYPE.value,
    **changes,
  )


def random_params(config: qwen2.Config) -> qwen2.Params:
  init = jax.jit(qwen2.init_params, static_argnums=0)
  return init(config, jax.random.key(0))


@contextmanager
def written(
  config: qwen2.Config, params: qwen2.Params, dtype: str
) -> Iterator[pathlib.Path]:
  """A Hugging Face folder of a policy, while it is open."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'policy'
    weights.save(path, config, params, dtype=dtype)
    del params  # a device may lack the room for another copy
    yield path


def turn(
  prompt: np.ndarray, reply: np.ndarray, log_probs: np.ndarray | None = None
) -> types.Turn:
  """A turn of these tokens, of which nothing else is known."""
  if log_probs is None:
    log_probs = np.zeros(len(reply), np.float32)
  return types.Turn(
    prompt=np.asarray(prompt, np.int32),
    reply=np.asarray(reply, np.int32),
    log_probs=log_probs,
    choices=(),
    observation='',
    action='',
    valid=True,
    reward=0.0,
  )


def block_params(config: qwen2.Config) -> int:
  """Weights that one token is multiplied with in all blocks."""
  heads = 2 * config.num_heads + 2 * config.num_kv_heads
  attention = config.width * config.head_dim * heads
  return config.num_layers * (attention + 3 * config.width * config.ff_width)


def train_operations(
  config: qwen2.Config, lengths: Sequence[int], unembedded: int
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


def decode_bytes(config: qwen2.Config, rows: int, context: float) -> float:
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
