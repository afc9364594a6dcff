"""What a config's fields say of the model: size, devices, rows, tokenizer."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from hgpo_jax import config as config_lib
from hgpo_jax import types
from hgpo_jax.config import Config
from hgpo_jax.model import registry, sharding, weights
from hgpo_jax.model.interface import Model
from hgpo_jax.model.lora import Lora
from hgpo_jax.multihost import hosts
from hgpo_jax.train import packing


def shapes_of(config: Config) -> packing.Shapes:
  """Returns the sizes of packed rows that a config asks for."""
  optim, sampling = config.optim, config.sampling
  return packing.Shapes(
    tokens=optim.row_tokens,
    replies=optim.row_replies,
    turns=optim.row_turns,
    rows=optim.microbatch_rows,
    reply=sampling.max_reply,
    choices=tuple(sampling.choice_buckets),
  )


def adapters_of(fields: config_lib.Lora) -> Lora | None:
  """Returns what `policy.lora` describes; rank 0 is none."""
  if not fields.rank:
    return None
  return Lora(fields.rank, fields.alpha, tuple(fields.targets))


def adapted(policy: config_lib.Policy) -> Model:
  """The preset with the config's adapters; a checkpoint is not looked for."""
  return registry.preset(policy.preset, lora=adapters_of(policy.lora))


def mesh_of(config: Config) -> jax.sharding.Mesh | None:
  """The mesh that a config asks for; None for a single device."""
  c = config.mesh
  if (c.data, c.fsdp, c.tensor) == (1, 1, 1) and hosts.count() == 1:
    return None
  mesh = sharding.make_mesh(c.data, c.fsdp, c.tensor)
  return None if mesh.size == 1 else mesh


def planned_mesh(config: Config) -> jax.sharding.AbstractMesh:
  """The config's mesh, of devices that need not be here.

  -1 takes what is left of the devices that are here.
  """
  sizes = [getattr(config.mesh, axis) for axis in sharding.AXES]
  known = math.prod(size for size in sizes if size != -1)
  if sizes.count(-1) > 1 or known < 1:
    raise types.ConfigError(
      f'mesh is {sizes}; expected sizes, one of them may be -1.'
    )
  left = max(1, jax.device_count() // known)
  return jax.sharding.AbstractMesh(
    tuple(left if size == -1 else size for size in sizes), sharding.AXES
  )


def fit_mesh(config: Config) -> Config:
  """Lets a saved run be read on other devices than those that trained it.

  Where its mesh does not suit them, all that are here share the params.
  """
  try:
    mesh_of(config)
  except types.ConfigError:
    mesh = dataclasses.replace(config.mesh, data=1, fsdp=-1, tensor=1)
    return dataclasses.replace(config, mesh=mesh)
  return config


@contextlib.contextmanager
def on_mesh(config: Config) -> Iterator[None]:
  """Makes the config's mesh the one that the model's code is laid out on."""
  mesh = mesh_of(config)
  with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
    yield


def model_of(policy: config_lib.Policy, vocab_size: int) -> Model:
  """Returns the checkpoint's or the preset's model with the config's changes.

  Args:
    policy: the experiment's `policy` fields.
    vocab_size: of the tokenizer; a released size keeps its padded vocabulary.
  """
  fields: dict[str, Any] = {
    'dtype': policy.dtype,
    'param_dtype': policy.param_dtype,
    'cache_dtype': policy.cache_dtype,
    'remat': policy.remat,
    'attention': policy.attention,
  }
  if policy.checkpoint:
    folder = weights.find(policy.checkpoint)
    model = weights.model_from_hf(folder, **fields)
    if vocab_size > model.config.vocab_size:
      raise types.ConfigError(
        f'the tokenizer has {vocab_size} tokens, but {folder} embeds '
        f'{model.config.vocab_size}: give policy.tokenizer the one that '
        'belongs to the checkpoint.'
      )
    return model
  model = registry.preset(policy.preset)
  size = model.config
  released = 0 if policy.preset.endswith('tiny') else size.vocab_size
  return model.replace(
    vocab_size=max(vocab_size, released),
    width=policy.width or size.width,
    ff_width=policy.ff_width or size.ff_width,
    num_layers=policy.layers or size.num_layers,
    **fields,
  )


def tokenizer_folder(policy: config_lib.Policy) -> str:
  """Where the tokenizer is read from; '' where it is built."""
  if policy.tokenizer or not policy.checkpoint:
    return policy.tokenizer
  return str(weights.find(policy.checkpoint))


def fingerprints(policy: config_lib.Policy) -> dict[str, Any]:
  """What tells the tokenizer and the checkpoint apart from others, as JSON."""

  def digest(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

  digests: dict[str, Any] = {'tokenizer': '', 'checkpoint': {}}
  folder = tokenizer_folder(policy)
  if folder:
    digests['tokenizer'] = digest(pathlib.Path(folder) / 'tokenizer.json')
  if policy.checkpoint:
    # The weights themselves would take minutes; size and time will do.
    digests['checkpoint'] = {
      p.name: [p.stat().st_size, p.stat().st_mtime_ns]
      for p in sorted(weights.find(policy.checkpoint).glob('*.safetensors'))
    }
  return digests
