"""Low-rank adapters as a part of a model's params; see `qwen2.Lora`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from jax import Array

from hgpo_jax.model import qwen2

_LEAVES = ('lora_a', 'lora_b')


def init_adapters(config: qwen2.Config, key: Array) -> qwen2.Params:
  """New adapters for the params of any model of this size; they do nothing.

  Args:
    config: with `lora`.
    key: of the A matrices; B starts at zero.
  """
  return split(qwen2.init_params(config, key))[0]


def split(params: Mapping[str, Any]) -> tuple[qwen2.Params, qwen2.Params]:
  """Params -> the adapters, and all the rest."""
  adapters: qwen2.Params = {}
  rest: qwen2.Params = {}
  for name, value in params.items():
    if isinstance(value, Mapping):
      low, other = split(value)
      if low:
        adapters[name] = low
      rest[name] = other
    else:
      (adapters if name in _LEAVES else rest)[name] = value
  return adapters, rest


def combine(
  adapters: Mapping[str, Any], rest: Mapping[str, Any]
) -> qwen2.Params:
  """Undoes `split`; no array is copied.

  Args:
    adapters, rest: nested dicts without a common leaf; either may be empty.
  """
  both = dict(rest)
  for name, value in adapters.items():
    if isinstance(value, Mapping):
      both[name] = combine(value, rest.get(name, {}))
    else:
      both[name] = value
  return both


def merge_lora(config: qwen2.Config, params: qwen2.Params) -> qwen2.Params:
  """Adds every adapter to its kernel: W + (alpha / rank) A B.

  Args:
    config: with `lora`.
    params: with adapters.

  Returns: params of the same model without `lora`, in their stored types.
  """
  lora = config.lora
  if lora is None:
    return params

  def merged(tree: Mapping[str, Any]) -> qwen2.Params:
    out = {
      k: merged(v) if isinstance(v, Mapping) else v
      for k, v in tree.items()
      if k not in _LEAVES
    }
    if 'lora_a' in tree:
      low = tree['lora_a'] @ tree['lora_b']  # [layers, in, out]
      kernel = tree['kernel']
      wide = kernel.astype(low.dtype) + (lora.alpha / lora.rank) * low
      out['kernel'] = wide.astype(kernel.dtype)
    return out

  return jax.jit(merged)(params)
