"""Checkpoints of Hugging Face into params, a tensor at a time.

The host never holds the model: `load` allocates a leaf where it belongs, then
reads one stored tensor, or each device's part of it, and writes that into its
layer of the leaf in place. The format is in `hf`, the way out in `export`;
whoever uses checkpoints finds all they need here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import traverse_util
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from hgpo_jax.model import hf
from hgpo_jax.model.export import save
from hgpo_jax.model.hf import WeightsError, model_from_hf
from hgpo_jax.model.interface import Model
from hgpo_jax.types import Params, PyTree

__all__ = ['WeightsError', 'find', 'load', 'model_from_hf', 'save']

_HUB_ID = re.compile(r'[\w.-]+(/[\w.-]+)?$')
_HUB_FILES = ('*.json', '*.safetensors', '*.txt', '*.jinja')


def find(name_or_folder: hf.Folder) -> pathlib.Path:
  """The local folder of a checkpoint; a hub id is downloaded, once.

  Args:
    name_or_folder: a local folder, which needs no network, or an id of
      https://huggingface.co, such as 'Qwen/Qwen2.5-0.5B-Instruct'.

  Raises:
    WeightsError: it is neither, or the hub cannot be reached.
  """
  folder = pathlib.Path(name_or_folder)
  if folder.is_dir():
    return folder
  name = str(name_or_folder)
  reason: object = 'a hub id reads owner/name'
  if _HUB_ID.match(name):
    try:
      return pathlib.Path(
        huggingface_hub.snapshot_download(name, allow_patterns=list(_HUB_FILES))
      )
    except Exception as error:  # it raises many kinds, also of its client
      reason = error
  raise WeightsError(
    f'{name!r} is no local folder ({folder.absolute()} does not exist), and '
    f'as a hub id it failed: {reason}. Give a folder that holds config.json '
    'and safetensors, or an id where there is a network.'
  )


def load(
  folder: hf.Folder,
  model: Model,
  *,
  shardings: PyTree = None,
  dtype: str | None = None,
) -> Params:
  """Reads a checkpoint into params, with at most one tensor on the host.

  Of a tied checkpoint `lm_head.weight` is not read, and rotary buffers never
  are. Several processes may call this together: each reads what its own
  devices hold.

  Args:
    folder: local, see `find`; stored as float32, bfloat16 or float16.
    model: must agree with the folder's `config.json` in every size.
    shardings: as the params, a NamedSharding (or the sharding of one device)
      in place of each array; None puts all on the default device.
    dtype: name of the params' type; None for `param_dtype` of the config.

  Raises:
    WeightsError: files are missing or damaged, or sizes, names or shapes
      differ; one message lists all of them.
  """
  folder = pathlib.Path(folder)
  leaves, stored = hf.leaves(model), _scan(folder)
  _check_fit(folder, model, leaves, stored)
  if shardings is None:
    paths = [leaf.path for leaf in leaves]
    by_path = dict.fromkeys(paths, jnp.zeros(()).sharding)
  else:
    by_path = hf.flat(shardings)
  hf.refuse(
    'the shardings do not fit the model',
    {'missing': [leaf.path for leaf in leaves if leaf.path not in by_path]},
    'Make them from the params of this model.',
  )
  dtype = dtype or model.config.param_dtype
  arrays = {
    leaf.path: _load_leaf(leaf, stored, by_path[leaf.path], dtype)
    for leaf in leaves
  }
  return traverse_util.unflatten_dict(arrays, sep='/')


@dataclasses.dataclass(frozen=True)
class _Stored:
  """One tensor of a checkpoint, not yet read."""

  file: pathlib.Path
  shape: tuple[int, ...]
  dtype: str  # safetensors' name of it, such as 'BF16'


def _scan(folder: pathlib.Path) -> dict[str, _Stored]:
  """Reads the headers of all files: name -> where and what."""
  stored = {}
  for file in _files(folder):
    with _opened(file) as tensors:
      for name in tensors.keys():  # noqa: SIM118 (a handle, no mapping)
        view = tensors.get_slice(name)
        shape = tuple(view.get_shape())
        stored[name] = _Stored(file, shape, view.get_dtype())
  return stored


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  """The safetensors files of a folder; one file wins, as in transformers."""
  single, index = folder / hf.SINGLE, folder / hf.INDEX
  if single.is_file():
    return [single]
  if not index.is_file():
    raise WeightsError(
      f'{folder} holds neither {hf.SINGLE} nor {hf.INDEX}. Give the folder of '
      'a complete checkpoint; one of PyTorch pickles (*.bin) must first be '
      "loaded with transformers and written anew by the model's "
      'save_pretrained.'
    )
  names = sorted(set(hf.read_json(index).get('weight_map', {}).values()))
  missing = [name for name in names if not (folder / name).is_file()]
  if missing or not names:
    raise WeightsError(
      f'{index} names {len(names)} files, of which '
      f'{hf.listed(missing) or "none"} are missing. Download the checkpoint '
      'again; an interrupted download continues.'
    )
  return [folder / name for name in names]


@contextlib.contextmanager
def _opened(file: pathlib.Path) -> Iterator[Any]:
  try:
    with safetensors.safe_open(file, framework='numpy') as tensors:
      yield tensors
  except (safetensors.SafetensorError, OSError) as error:
    raise WeightsError(
      f'{file} is damaged or no safetensors file ({error}). Download it again.'
    ) from error


def _check_fit(
  folder: pathlib.Path,
  model: Model,
  leaves: Sequence[hf.Leaf],
  stored: Mapping[str, _Stored],
) -> None:
  """Raises one WeightsError that lists whatever does not fit."""
  stored_model, config = model_from_hf(folder), model.config
  expected = {n: leaf.stored_shape for leaf in leaves for _, n in leaf.stored()}
  got = {name: s for name, s in stored.items() if not _ignored(name, model)}
  types = hf.DTYPES.values()
  names = stored_model.architecture.name, model.architecture.name
  wrong = {
    'other model_type': [f'{names[0]} (expected {names[1]})']
    * (names[0] != names[1]),
    'other sizes in config.json': [
      f'{theirs} {getattr(stored_model.config, ours)} '
      f'(expected {getattr(config, ours)})'
      for ours, theirs in model.architecture.hf_fields.items()
      if getattr(stored_model.config, ours) != getattr(config, ours)
    ],
    **hf.misfits('tensors', {n: s.shape for n, s in got.items()}, expected),
    'tensors of other types': [
      f'{name} {s.dtype} (expected one of {", ".join(types)})'
      for name, s in got.items()
      if name in expected and s.dtype not in types
    ],
  }
  hf.refuse(
    f'{folder} does not fit the model',
    wrong,
    'Take the model from the folder itself (model_from_hf), or give the '
    'folder of a complete, unquantised checkpoint.',
  )


def _ignored(name: str, model: Model) -> bool:
  """A copy of the embedding, or the rotary buffers of old checkpoints."""
  head = model.architecture.hf_names.get('head')
  copied = model.config.tied_head and name == head
  return copied or name.endswith('rotary_emb.inv_freq')


def _load_leaf(
  leaf: hf.Leaf, stored: Mapping[str, _Stored], sharding: Sharding, dtype: str
) -> Array:
  """Fills one leaf; transposed and cast on the devices, in place."""
  parts = _stored_sharding(leaf, sharding)
  whole = None
  if leaf.stacked:
    whole = jnp.zeros(leaf.shape, dtype, device=sharding)
  for layer, name in leaf.stored():
    x = jax.make_array_from_callback(
      leaf.stored_shape, parts, _reader(stored[name], name)
    )
    whole = _put(whole, x, layer, leaf.transposed, dtype, sharding)
    jax.block_until_ready(whole)  # the host must not read ahead of the devices
  return jax.device_put(whole, sharding)  # the very object, not an equivalent


def _stored_sharding(leaf: hf.Leaf, sharding: Sharding) -> Sharding:
  """How one stored tensor lies on devices if the leaf lies as `sharding`."""
  if not isinstance(sharding, NamedSharding):
    return sharding  # of one device: the same for any shape
  spec = [*sharding.spec] + [None] * (len(leaf.shape) - len(sharding.spec))
  spec = spec[1:] if leaf.stacked else spec
  spec = spec[::-1] if leaf.transposed else spec
  return NamedSharding(
    sharding.mesh, PartitionSpec(*spec), memory_kind=sharding.memory_kind
  )


def _reader(stored: _Stored, name: str) -> Callable[[Any], np.ndarray]:
  """A function that reads parts; devices with equal parts share one read."""
  parts: dict[str, np.ndarray] = {}

  def read(index: tuple[slice, ...]) -> np.ndarray:
    key = str(index)  # slices cannot be hashed
    if key not in parts:
      parts[key] = _read(stored, name, index)
    return parts[key]

  return read


def _read(stored: _Stored, name: str, index: tuple[slice, ...]) -> np.ndarray:
  """Reads a part of one tensor into memory of its own.

  The file is opened for each read: while it is open, every page that was read
  stays mapped and counts as resident.
  """
  with _opened(stored.file) as tensors:
    return tensors.get_slice(name)[index]


@functools.partial(
  jax.jit,
  donate_argnums=0,
  static_argnames=('transposed', 'dtype', 'sharding'),
)
def _put(
  whole: Array | None,
  x: Array,
  layer: int | None,
  transposed: bool,
  dtype: str,
  sharding: Sharding,
) -> Array:
  """Writes a stored tensor into its layer; without one it is the leaf."""
  x = (x.T if transposed else x).astype(dtype)
  if whole is not None and layer is not None:
    # Not `.at[].set`: XLA's CPU compiler would widen a whole leaf of bfloat16.
    x = jax.lax.dynamic_update_index_in_dim(whole, x, layer, 0)
  return jax.lax.with_sharding_constraint(x, sharding)
