"""Hugging Face's format of a Qwen2 checkpoint; what reader and writer share.

A folder holds `config.json` and either `model.safetensors` or several files
with `model.safetensors.index.json`. A linear weight is stored [outputs,
inputs] there and [inputs, outputs] here, and our blocks are stacked along axis
0. `NAMES` is the one table of names, `FIELDS` that of sizes; both serve both
directions.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import traverse_util

from hgpo_jax.model import qwen2

Folder = str | os.PathLike[str]

ARCHITECTURE = 'Qwen2ForCausalLM'
SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
DTYPES = {'float32': 'F32', 'bfloat16': 'BF16', 'float16': 'F16'}

# Our path -> stored name. Leaves named `kernel` are transposed.
NAMES = {
  'embed': 'model.embed_tokens.weight',
  **{
    f'layers/{ours}': f'model.layers.{{layer}}.{theirs}'
    for ours, theirs in {
      'attention_norm/scale': 'input_layernorm.weight',
      'attention/q_proj/kernel': 'self_attn.q_proj.weight',
      'attention/q_proj/bias': 'self_attn.q_proj.bias',
      'attention/k_proj/kernel': 'self_attn.k_proj.weight',
      'attention/k_proj/bias': 'self_attn.k_proj.bias',
      'attention/v_proj/kernel': 'self_attn.v_proj.weight',
      'attention/v_proj/bias': 'self_attn.v_proj.bias',
      'attention/o_proj/kernel': 'self_attn.o_proj.weight',
      'mlp_norm/scale': 'post_attention_layernorm.weight',
      'mlp/gate_proj/kernel': 'mlp.gate_proj.weight',
      'mlp/up_proj/kernel': 'mlp.up_proj.weight',
      'mlp/down_proj/kernel': 'mlp.down_proj.weight',
    }.items()
  },
  'norm/scale': 'model.norm.weight',
  'head': 'lm_head.weight',
}
# Field of qwen2.Config -> key of config.json.
FIELDS = {
  'vocab_size': 'vocab_size',
  'width': 'hidden_size',
  'ff_width': 'intermediate_size',
  'num_layers': 'num_hidden_layers',
  'num_heads': 'num_attention_heads',
  'num_kv_heads': 'num_key_value_heads',
  'head_dim': 'head_dim',
  'rope_base': 'rope_theta',
  'norm_eps': 'rms_norm_eps',
  'tied_head': 'tie_word_embeddings',
}
# What a config.json means that leaves these out (transformers' Qwen2Config).
_DEFAULTS = {
  'rms_norm_eps': 1e-6,
  'rope_theta': 10_000.0,
  'tie_word_embeddings': False,
}
_LISTED = 10  # names that an error spells out, per kind of misfit


class WeightsError(ValueError):
  """A checkpoint cannot be read, written or used; the text says the cure."""


def config_from_hf(
  source: Folder | Mapping[str, Any], **fields: Any
) -> qwen2.Config:
  """Reads a model's size from Hugging Face's description of it.

  Args:
    source: a folder with a `config.json`, or what such a file holds.
    **fields: further fields of `qwen2.Config`, such as `dtype`.

  Raises:
    WeightsError: no such file, another architecture, or a variant of Qwen2
      that `qwen2` does not implement; every reason is listed.
  """
  if isinstance(source, Mapping):
    where, values = 'config.json', dict(source)
  else:
    path = pathlib.Path(source) / 'config.json'
    where, values = str(path), read_json(path)
  rope = values.get('rope_parameters') or values.get('rope_scaling') or {}
  reasons = _unsupported(values, rope)
  if reasons:
    raise WeightsError(
      f'{where}: {"; ".join(reasons)}. Give a folder of Qwen2.5 in its plain '
      'form (such as Qwen/Qwen2.5-1.5B-Instruct).'
    )
  values = {**_DEFAULTS, **values}
  values['rope_theta'] = float(rope.get('rope_theta', values['rope_theta']))
  heads = values['num_attention_heads']
  if values['num_key_value_heads'] is None:
    values['num_key_value_heads'] = heads
  if values.get('head_dim') is None:
    values['head_dim'] = values['hidden_size'] // heads
  sizes = {ours: values[theirs] for ours, theirs in FIELDS.items()}
  try:
    return qwen2.Config(**{**sizes, **fields})
  except ValueError as error:
    raise WeightsError(f'{where}: {error}') from error


def config_to_hf(config: qwen2.Config, dtype: str) -> dict[str, Any]:
  """The keys that transformers 4 and 5, vLLM and SGLang all read."""
  return {
    'architectures': [ARCHITECTURE],
    'model_type': 'qwen2',
    **{theirs: getattr(config, ours) for ours, theirs in FIELDS.items()},
    'hidden_act': 'silu',
    'max_position_embeddings': 32_768,  # as in the released instruct models
    'use_sliding_window': False,
    'torch_dtype': dtype,
  }


def _unsupported(
  values: Mapping[str, Any], rope: Mapping[str, Any]
) -> list[str]:
  """Lists, as 'got (expected ...)', what `qwen2` would compute wrongly."""
  known = {*values, *_DEFAULTS, 'head_dim'}  # the last follows from the width
  rope_type = rope.get('rope_type', rope.get('type', 'default'))
  architectures = values.get('architectures') or [ARCHITECTURE]
  checks = [
    ('architectures', architectures, [ARCHITECTURE]),
    ('model_type', values.get('model_type'), 'qwen2'),
    ('missing keys', [key for key in FIELDS.values() if key not in known], []),
    ('rope_type', rope_type, 'default'),
    ('partial_rotary_factor', rope.get('partial_rotary_factor', 1), 1),
    ('hidden_act', values.get('hidden_act', 'silu'), 'silu'),
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
  """

  path: str
  shape: tuple[int, ...]

  @property
  def stacked(self) -> bool:
    return self.path.startswith('layers/')

  @property
  def transposed(self) -> bool:
    return self.path.endswith('kernel')

  @property
  def stored_shape(self) -> tuple[int, ...]:
    shape = self.shape[1:] if self.stacked else self.shape
    return shape[::-1] if self.transposed else shape

  def stored(self) -> list[tuple[int | None, str]]:
    """(layer, stored name) of each tensor; one without a layer is the leaf."""
    name = NAMES[self.path]
    if not self.stacked:
      return [(None, name)]
    return [(i, name.format(layer=i)) for i in range(self.shape[0])]


def leaves(config: qwen2.Config) -> list[Leaf]:
  """Every leaf of the params without adapters, in the order of `NAMES`."""
  plain = dataclasses.replace(config, lora=None)
  params = flat(
    jax.eval_shape(lambda: qwen2.init_params(plain, jax.random.key(0)))
  )
  return [Leaf(path, params[path].shape) for path in NAMES if path in params]


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
  more = len(items) - _LISTED
  return ', '.join(items[:_LISTED]) + (f' and {more} more' if more > 0 else '')


def write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
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
