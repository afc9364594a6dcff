"""Params out to a Hugging Face checkpoint, a file at a time.

The host never holds the model, but the tensors of one file: `max_shard_bytes`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from jax import Array
from jax.experimental import multihost_utils

from hgpo_jax.model import hf
from hgpo_jax.model.interface import Model
from hgpo_jax.types import Params


def save(
  folder: hf.Folder,
  model: Model,
  params: Params,
  *,
  dtype: str = 'bfloat16',
  max_shard_bytes: int = 5_000_000_000,
  extra: Mapping[str, Any] | None = None,
) -> None:
  """Writes params as a folder that transformers, vLLM and SGLang load.

  The folder appears complete or not at all: it is written beside its place
  and renamed. The tokenizer is the caller's to save, afterwards. With several
  processes all must call this; the first one writes, and needs the folder.

  Args:
    folder: must not exist, or be empty.
    model: of `params`.
    params: of any float type, on any devices.
    dtype: stored type: 'bfloat16', 'float16' (whose largest number is 65504)
      or 'float32'.
    max_shard_bytes: a file grows no larger, unless one tensor is; the host
      needs as much memory.
    extra: further keys of `config.json`, such as `eos_token_id`.

  Raises:
    WeightsError: the folder is taken, or `params` do not fit `model`.
  """
  folder = pathlib.Path(folder).absolute()
  if dtype not in hf.DTYPES:
    raise hf.WeightsError(
      f'got dtype {dtype!r}; give one of {", ".join(hf.DTYPES)}.'
    )
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise hf.WeightsError(
      f'{folder} is there already; give another folder, or delete it.'
    )
  tensors = _outgoing(model, params, dtype)
  _meet('checked')
  if jax.process_index():
    for tensor in tensors:
      tensor.fetch()  # takes part in the gathering
  else:
    values = {**hf.config_to_hf(model, dtype), **(extra or {})}
    with _written(folder) as partial:
      hf.write_json(partial / 'config.json', values)
      _write_all(partial, _dealt(tensors, max_shard_bytes))
  _meet('written')


def _meet(where: str) -> None:
  """Waits until every process is here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f'hgpo_jax.export.{where}')


@dataclasses.dataclass(frozen=True)
class _Outgoing:
  """One tensor to be written, with name and type as stored."""

  name: str
  leaf: hf.Leaf
  whole: Array | np.ndarray  # the array of `leaf`
  layer: int | None  # the tensor's place in `whole`; None: it is the whole
  dtype: str

  @property
  def nbytes(self) -> int:
    return math.prod(self.leaf.stored_shape) * np.dtype(self.dtype).itemsize

  def fetch(self) -> np.ndarray:
    """Cut out, transposed and cast on the devices, then copied to the host."""
    whole, layer = self.whole, self.layer
    if isinstance(whole, np.ndarray) and layer is not None:
      whole, layer = whole[layer], None  # the other layers stay on the host
    x = _cut(whole, layer, self.leaf.transposed, self.dtype)
    if x.is_fully_addressable:
      return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)


@functools.partial(jax.jit, static_argnames=('transposed', 'dtype'))
def _cut(
  whole: Array, layer: int | None, transposed: bool, dtype: str
) -> Array:
  x = whole if layer is None else whole[layer]
  return (x.T if transposed else x).astype(dtype)


def _outgoing(model: Model, params: Params, dtype: str) -> list[_Outgoing]:
  """Every tensor to be stored, in the order of `hf_names`."""
  leaves, arrays = hf.leaves(model), hf.flat(params)
  hf.refuse(
    'the params do not fit the model',
    hf.misfits(
      'arrays',
      {path: array.shape for path, array in arrays.items()},
      {leaf.path: leaf.shape for leaf in leaves},
    ),
    'Give the model that they were made with, and plain params: adapters '
    'must be merged first.',
  )
  return [
    _Outgoing(name, leaf, arrays[leaf.path], layer, dtype)
    for leaf in leaves
    for layer, name in leaf.stored()
  ]


def _dealt(
  tensors: Sequence[_Outgoing], max_shard_bytes: int
) -> list[list[_Outgoing]]:
  """Deals tensors out to files, in order."""
  files: list[list[_Outgoing]] = [[]]
  for tensor in tensors:
    filled = sum(t.nbytes for t in files[-1])
    if files[-1] and filled + tensor.nbytes > max_shard_bytes:
      files.append([])
    files[-1].append(tensor)
  return files


def _write_all(
  folder: pathlib.Path, files: Sequence[Sequence[_Outgoing]]
) -> None:
  if len(files) == 1:
    _write_file(folder / hf.SINGLE, files[0])
    return
  weight_map = {}
  for number, tensors in enumerate(files, start=1):
    name = f'model-{number:05}-of-{len(files):05}.safetensors'
    _write_file(folder / name, tensors)
    weight_map.update({tensor.name: name for tensor in tensors})
  size = sum(tensor.nbytes for tensors in files for tensor in tensors)
  index = {'metadata': {'total_size': size}, 'weight_map': weight_map}
  hf.write_json(folder / hf.INDEX, index)


def _write_file(path: pathlib.Path, tensors: Sequence[_Outgoing]) -> None:
  arrays = {t.name: np.ascontiguousarray(t.fetch()) for t in tensors}
  safetensors.numpy.save_file(arrays, path, metadata={'format': 'pt'})
  with path.open('rb') as file:
    os.fsync(file.fileno())  # before the folder takes its place


@contextlib.contextmanager
def _written(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a folder beside `folder` that takes its place at the end."""
  partial = folder.with_name(f'.{folder.name}.partial')
  shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
  partial.mkdir(parents=True)
  try:
    yield partial
    partial.rename(folder)
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise
