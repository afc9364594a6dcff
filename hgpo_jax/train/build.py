"""What a config's fields say of the model: size, devices, rows, tokenizer."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections

from hgpo_jax import types
from hgpo_jax.model import attention, registry, remat, sharding, weights
from hgpo_jax.model import tokenizer as tokenizer_lib
from hgpo_jax.model.interface import Model
from hgpo_jax.model.lora import Lora
from hgpo_jax.multihost import hosts
from hgpo_jax.train import packing


def shapes_of(config: ml_collections.ConfigDict) -> packing.Shapes:
  """Returns the sizes of packed rows that a config asks for."""
  optim, sampling = config.optim, config.sampling
  return packing.Shapes(
    tokens=optim.row_tokens,
    replies=optim.row_replies,
    turns=optim.row_turns,
    rows=optim.microbatch,
    reply=sampling.max_reply,
    choices=tuple(sampling.choice_buckets),
  )


def adapters_of(fields: Any) -> Lora | None:
  """Returns what `policy.lora` describes; rank 0 is none."""
  if not fields.rank:
    return None
  return Lora(fields.rank, fields.alpha, tuple(fields.targets))


def _adapted(policy: Any) -> Model:
  """The preset with the config's adapters; a checkpoint is not looked for."""
  return registry.preset(policy.preset, lora=adapters_of(policy.lora))


def mesh_of(config: ml_collections.ConfigDict) -> jax.sharding.Mesh | None:
  """The mesh that a config asks for; None for a single device."""
  c = config.mesh
  if (c.data, c.fsdp, c.tensor) == (1, 1, 1) and hosts.count() == 1:
    return None
  mesh = sharding.make_mesh(c.data, c.fsdp, c.tensor)
  return None if mesh.size == 1 else mesh


def fit_mesh(config: ml_collections.ConfigDict) -> None:
  """Lets a saved run be read on other devices than those that trained it.

  Where its mesh does not suit them, all that are here share the params.
  """
  try:
    mesh_of(config)
  except types.ConfigError:
    config.mesh.update(data=1, fsdp=-1, tensor=1)


@contextlib.contextmanager
def on_mesh(config: ml_collections.ConfigDict) -> Iterator[None]:
  """Makes the config's mesh the one that the model's code is laid out on."""
  mesh = mesh_of(config)
  with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
    yield


def model_of(policy: Any, vocab_size: int) -> Model:
  """Returns the checkpoint's or the preset's model with the config's changes.

  Args:
    policy: the experiment's `policy` fields.
    vocab_size: of the tokenizer; a released size keeps its padded vocabulary.
  """
  fields: dict[str, Any] = {
    name: policy[name]
    for name in ('dtype', 'param_dtype', 'cache_dtype', 'remat', 'attention')
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


def tokenizer_folder(policy: Any) -> str:
  """Where the tokenizer is read from; '' where it is built."""
  if policy.tokenizer or not policy.checkpoint:
    return policy.tokenizer
  return str(weights.find(policy.checkpoint))


def fingerprints(policy: Any) -> dict[str, Any]:
  """What tells the tokenizer and the checkpoint apart from others, as JSON."""

  def digest(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

  found: dict[str, Any] = {'tokenizer': '', 'checkpoint': {}}
  folder = tokenizer_folder(policy)
  if folder:
    found['tokenizer'] = digest(pathlib.Path(folder) / 'tokenizer.json')
  if policy.checkpoint:
    # The weights themselves would take minutes; size and time will do.
    found['checkpoint'] = {
      p.name: [p.stat().st_size, p.stat().st_mtime_ns]
      for p in sorted(weights.find(policy.checkpoint).glob('*.safetensors'))
    }
  return found


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses fields of `policy`, `mesh` and packing that cannot work.

  Raises: ConfigError with the field, what it holds and what it may hold.
  """
  c = config.policy
  types.one_of('policy.preset', c.preset, registry.presets())
  types.one_of('policy.chat', c.chat, tokenizer_lib.CHAT_TEMPLATES)
  types.one_of('policy.remat', c.remat, remat.POLICIES)
  types.one_of(
    'policy.attention', c.attention, ('auto', *attention.IMPLEMENTATIONS)
  )
  for field in ('dtype', 'param_dtype', 'cache_dtype'):
    types.one_of(
      f'policy.{field}', c[field], ('float32', 'bfloat16', 'float16')
    )
  if c.param_dtype != 'float32' and not c.lora.rank:
    raise types.ConfigError(
      f'policy.param_dtype is {c.param_dtype!r} with policy.lora.rank=0: steps '
      'of the optimiser are smaller than its rounding and would be lost. Train '
      "'float32' params (policy.dtype is that of the products), or adapters."
    )
  changed = [n for n in ('layers', 'width', 'ff_width') if c[n]]
  if c.checkpoint and changed:
    raise types.ConfigError(
      f'policy.{changed[0]} is {c[changed[0]]} with policy.checkpoint='
      f'{c.checkpoint!r}: expected 0, as the checkpoint has its own size.'
    )
  for field, fn in (
    ('policy.lora', lambda: _adapted(c)),
    ('mesh', lambda: mesh_of(config)),
  ):
    try:
      fn()
    except ValueError as error:
      raise types.ConfigError(f'{field}: {error}') from error
  shapes_of(config)  # says itself what does not fit
  chunk = min(config.optim.logits_chunk, config.optim.row_replies)
  if config.optim.row_replies % chunk:
    raise types.ConfigError(
      f'optim.logits_chunk is {chunk}; expected a divisor of '
      f'optim.row_replies={config.optim.row_replies}.'
    )
