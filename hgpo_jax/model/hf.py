"""Hugging Face's format of a checkpoint; what reader and writer share.

A folder holds `config.json` and either `model.safetensors` or several files
with `model.safetensors.index.json`. A linear weight is stored [outputs,
inputs] there and [inputs, outputs] here, and our blocks are stacked along axis
0. A model's `Architecture` has the table of names and that of sizes; both serve
both directions.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from flax import traverse_util

from hgpo_jax.model import registry
from hgpo_jax.model.interface import Architecture, Config, Model

Folder = str | os.PathLike[str]

SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
DTYPES = {'float32': 'F32', 'bfloat16': 'BF16', 'float16': 'F16'}
_LISTED = 10  # names that an error spells out, per kind of misfit
_CURE = 'Give the folder of a model that is known, in its plain form.'


class WeightsError(ValueError):
  """A checkpoint cannot be read, written or used; the text says the cure."""


def model_from_hf(source: Folder | Mapping[str, Any], **fields: Any) -> Model:
  """Reads which model of which size Hugging Face's description means.

  Args:
    source: a folder with a `config.json`, or what such a file holds.
    **fields: further fields of `Config`, such as `dtype`.

  Raises:
    WeightsError: no such file, a model that is not in the registry, or a
      variant of one that is not implemented, with every reason.
  """
  if isinstance(source, Mapping):
    where, values = 'config.json', dict(source)
  else:
    path = pathlib.Path(source) / 'config.json'
    where, values = str(path), read_json(path)
  known, name = registry.ARCHITECTURES, values.get('model_type')
  if name not in known:
    raise WeightsError(
      f'{where}: model_type {name!r} (expected one of {list(known)}). {_CURE}'
    )
  architecture = known[name]
  rope = values.get('rope_parameters') or values.get('rope_scaling') or {}
  reasons = _unsupported(architecture, values, rope)
  if reasons:
    raise WeightsError(f'{where}: {"; ".join(reasons)}. {_CURE}')
  values = {**architecture.hf_defaults, **values}
  values['rope_theta'] = float(rope.get('rope_theta', values['rope_theta']))
  heads = values['num_attention_heads']
  if values['num_key_value_heads'] is None:
    values['num_key_value_heads'] = heads
  if values.get('head_dim') is None:
    values['head_dim'] = values['hidden_size'] // heads
  sizes = {
    ours: values[theirs] for ours, theirs in architecture.hf_fields.items()
  }
  try:
    config = Config(**{**sizes, **architecture.options, **fields})
    return Model(architecture, config)
  except ValueError as error:
    raise WeightsError(f'{where}: {error}') from error


def config_to_hf(model: Model, dtype: str) -> dict[str, Any]:
  """The keys that transformers 4 and 5, vLLM and SGLang all read."""
  architecture, config = model.architecture, model.config
  sizes = architecture.hf_fields.items()
  return {
    'architectures': [architecture.hf_class],
    'model_type': architecture.name,
    **{theirs: getattr(config, ours) for ours, theirs in sizes},
    **architecture.hf_expected,
    'max_position_embeddings': 32_768,  # as in the released instruct models
    'use_sliding_window': False,
    'torch_dtype': dtype,
  }


def _unsupported(
  architecture: Architecture, values: Mapping[str, Any], rope: Mapping[str, Any]
) -> list[str]:
  """Lists, as 'got (expected ...)', what would be computed wrongly."""
  # A head's size follows from the width where there is no other default.
  known = {*values, *architecture.hf_defaults, 'head_dim'}
  keys = architecture.hf_fields.values()
  expected = architecture.hf_expected
  classes = values.get('architectures') or [architecture.hf_class]
  rope_type = rope.get('rope_type', rope.get('type', 'default'))
  checks = [
    ('architectures', classes, [architecture.hf_class]),
    ('missing keys', [key for key in keys if key not in known], []),
    ('rope_type', rope_type, 'default'),
    ('partial_rotary_factor', rope.get('partial_rotary_factor', 1), 1),
    *[(key, values.get(key, x), x) for key, x in expected.items()],
    ('layers with a sliding window', _num_sliding(values), 0),
    ('quantization_config', values.get('quantization_config'), None),
  ]
  return [
    f'{name} {got!r} (expected {expected!r})'
    for name, got, expected in checks
    if got != expected
  ]


def _num_sliding(values: Mapping[str, Any]) -> int:
  types = values.get('layer_types')
  if types is not None:
    return sum(kind != 'full_attention' for kind in types)
  if not values.get('use_sliding_window'):
    return 0
  first = values.get('max_window_layers', 28)  # transformers' default
  return max(values.get('num_hidden_layers', 0) - first, 0)


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One array of ours, and the stored tensors that make it up.

  Attributes:
    path: keys in the nested dict, joined by '/'.
    shape: of ours, with the leading axis of layers if `stacked`.
    stored_name: with `{layer}` if `stacked`.
  """

  path: str
  shape: tuple[int, ...]
  stored_name: str

  @property
  def stacked(self) -> bool:
    """Whether it holds a tensor for each layer."""
    return self.path.startswith('layers/')

  @property
  def transposed(self) -> bool:
    """Whether files have its axes in the other order."""
    return self.path.endswith('kernel')

  @property
  def stored_shape(self) -> tuple[int, ...]:
    """The shape of each tensor in files."""
    shape = self.shape[1:] if self.stacked else self.shape
    return shape[::-1] if self.transposed else shape

  def stored(self) -> list[tuple[int | None, str]]:
    """(layer, stored name) of each tensor; one without a layer is the leaf."""
    if not self.stacked:
      return [(None, self.stored_name)]
    return [(i, self.stored_name.format(layer=i)) for i in range(self.shape[0])]


def leaves(model: Model) -> list[Leaf]:
  """Every leaf of the params without adapters, in the order of `hf_names`."""
  params = flat(model.replace(lora=None).param_shapes())
  return [
    Leaf(path, params[path].shape, name)
    for path, name in model.architecture.hf_names.items()
    if path in params
  ]


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
  """A nested dict as one level, its keys joined by '/'."""
  return traverse_util.flatten_dict(tree, sep='/')


def misfits(
  kind: str,
  got: Mapping[str, tuple[int, ...]],
  expected: Mapping[str, tuple[int, ...]],
) -> dict[str, list[str]]:
  """Compares two tables of shapes: what is wrong -> the names it holds for."""
  return {
    f'missing {kind}': [name for name in expected if name not in got],
    f'extra {kind}': sorted(got.keys() - expected.keys()),
    f'misshapen {kind}': [
      f'{name} {list(got[name])} (expected {list(shape)})'
      for name, shape in expected.items()
      if got.get(name, shape) != shape
    ],
  }


def refuse(what: str, wrong: Mapping[str, Sequence[str]], cure: str) -> None:
  """Raises one WeightsError with all that is wrong, if anything is."""
  texts = [
    f'{len(items)} {kind}: {listed(items)}'
    for kind, items in wrong.items()
    if items
  ]
  if texts:
    raise WeightsError(f'{what}: {"; ".join(texts)}. {cure}')


def listed(items: Sequence[str]) -> str:
  """The first items, and how many more there are."""
  more = len(items) - _LISTED
  return ', '.join(items[:_LISTED]) + (f' and {more} more' if more > 0 else '')


def write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
  """Writes JSON, indented."""
  path.write_text(json.dumps(value, indent=2) + '\n', encoding='utf-8')


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Raises WeightsError unless the file holds a JSON object."""
  try:
    value = json.loads(path.read_text(encoding='utf-8'))
    if not isinstance(value, dict):
      raise ValueError(f'a {type(value).__name__}, no object')
    return value
  except (OSError, ValueError) as error:
    raise WeightsError(
      f'{path} cannot be read as JSON ({error}). Give the folder of a '
      'complete Hugging Face checkpoint.'
    ) from error
