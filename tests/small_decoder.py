"""A small policy and the shapes of its decoding, for tests of the sampler."""

import numpy as np

from hgpo_jax.model import registry
from hgpo_jax.model.interface import Config, Model
from hgpo_jax.sampler.decode import DecodeShapes


def small_model(*sizes, architecture='qwen2', **fields):
  """A model of any size; computed and cached in float32 unless told else."""
  kind = registry.ARCHITECTURES[architecture]
  types = {'dtype': 'float32', 'cache_dtype': 'float32'}
  return Model(kind, Config(*sizes, **{**types, **kind.options, **fields}))


MODEL = small_model(40, 16, 32, 2, 4, 2, 4)
END, PAD, R = 1, 0, 5
SHAPES = DecodeShapes(
  rows=4,
  max_reply=R,
  prompt_buckets=(8,),
  prefill_buckets=(4,),
  max_choices=4,
  chunk=3,
  prefill_rows=2,
  end_id=END,
  pad_id=PAD,
)


def random_prompts(n, seed=0, longest=8):
  rng = np.random.default_rng(seed)
  return [
    list(rng.integers(2, 40, rng.integers(1, longest + 1))) for _ in range(n)
  ]
