"""Low-rank adapters as a part of a model's params.

A target's kernel W acts as W + (alpha / rank) A B (Hu et al. 2021,
https://arxiv.org/abs/2106.09685): A `[in, rank]` starts at random, B
`[rank, out]` at zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
from jax import Array

from hgpo_jax.types import Params, PyTree

_LEAVES = ('lora_a', 'lora_b')


@dataclasses.dataclass(frozen=True)
class Lora:
  """Which linear layers get adapters.

  Attributes:
    rank: columns of A.
    alpha: scale.
    targets: names of the linear layers; empty for all.
  """

  rank: int
  alpha: float
  targets: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    if self.rank < 1:
      raise ValueError(f'lora rank={self.rank}: expected at least 1.')

  def adapts(self, name: str) -> bool:
    """Whether the linear layer of this name gets an adapter."""
    return not self.targets or name in self.targets

  @property
  def scale(self) -> float:
    """What the product of A and B is multiplied by."""
    return self.alpha / self.rank


def adapted(x: Array, a: Array, b: Array, lora: Lora) -> Array:
  """What an adapter adds to a layer's output: scale (x A) B.

  Args:
    x: `[B, in]`, the layer's input; its type is that of the products.
    a: `[in, rank]`.
    b: `[rank, out]`.
    lora: the scale.
  """
  low = x @ a.astype(x.dtype)
  return lora.scale * (low @ b.astype(x.dtype))


def split(params: Mapping[str, PyTree]) -> tuple[Params, Params]:
  """Params -> the adapters, and all the rest."""
  adapters: Params = {}
  rest: Params = {}
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
  adapters: Mapping[str, PyTree], rest: Mapping[str, PyTree]
) -> Params:
  """Undoes `split`; no array is copied.

  Args:
    adapters: nested dict; may be empty.
    rest: nested dict without a leaf of `adapters`; may be empty.
  """
  both = dict(rest)
  for name, value in adapters.items():
    if isinstance(value, Mapping):
      both[name] = combine(value, rest.get(name, {}))
    else:
      both[name] = value
  return both


def merge(lora: Lora | None, params: Params) -> Params:
  """Adds every adapter to its kernel: W + (alpha / rank) A B.

  Args:
    lora: of the model; None has no adapters.
    params: with adapters.

  Returns: params of the same model without adapters, in their stored types.
  """
  if lora is None:
    return params
  scale = lora.scale

  def merged(tree: Mapping[str, PyTree]) -> Params:
    out = {
      k: merged(v) if isinstance(v, Mapping) else v
      for k, v in tree.items()
      if k not in _LEAVES
    }
    if 'lora_a' in tree:
      low = tree['lora_a'] @ tree['lora_b']  # [layers, in, out]
      kernel = tree['kernel']
      wide = kernel.astype(low.dtype) + scale * low
      out['kernel'] = wide.astype(kernel.dtype)
    return out

  return jax.jit(merged)(params)
