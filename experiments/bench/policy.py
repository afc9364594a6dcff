"""The policy that is timed: its flags, random weights, turns, and its work."""

from __future__ import annotations

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
from hgpo_jax.model import registry, weights
from hgpo_jax.model.interface import Config, Model
from hgpo_jax.types import Params

PRESET = flags.DEFINE_enum('preset', 'small', list(registry.presets()), 'Size.')
_LAYERS = flags.DEFINE_integer('layers', 0, "Blocks; 0 keeps the preset's.")
DTYPE = flags.DEFINE_enum(
  'dtype', 'float32', ['float32', 'bfloat16'], 'Of activations and cache.'
)


def model(**changes: Any) -> Model:
  """The policy that the flags describe, with other fields where wanted."""
  preset = registry.preset(PRESET.value)
  return preset.replace(
    num_layers=_LAYERS.value or preset.config.num_layers,
    dtype=DTYPE.value,
    cache_dtype=DTYPE.value,
    **changes,
  )


def random_params(model: Model) -> Params:
  """Params as a run draws them."""
  return jax.jit(model.init)(jax.random.key(0))


@contextmanager
def written(model: Model, params: Params, dtype: str) -> Iterator[pathlib.Path]:
  """A Hugging Face folder of a policy, while it is open."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'policy'
    weights.save(path, model, params, dtype=dtype)
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
