"""Where arrays live: one mesh, and one table from logical axes to its axes.

The mesh has three axes. `data` splits rows and copies params; `fsdp` splits
rows and params, which are gathered layer by layer; `tensor` splits heads,
feed-forward columns and the vocabulary (Megatron-LM, Shoeybi et al. 2019,
https://arxiv.org/abs/1909.08053).

Model code names logical axes (`constrain(x, 'rows', None, 'width')`) and knows
no mesh; `jax.set_mesh` around the jitted call says which one is meant, in the
thread that calls. Without it, `constrain` does nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax import Array
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from hgpo_jax import types
from hgpo_jax.model.interface import Model
from hgpo_jax.types import PyTree

AXES = ('data', 'fsdp', 'tensor')

# Logical axis -> mesh axes. An axis whose size the mesh does not divide stays
# whole.
RULES: Mapping[str | None, tuple[str, ...]] = {
  'rows': ('data', 'fsdp'),  # of a batch, and of a cache
  'data_rows': ('data',),  # while fsdp splits another axis
  'heads': ('tensor',),
  'kv_heads': ('tensor',),
  'ff': ('tensor',),
  'vocab': ('tensor',),
  'embed': ('fsdp',),  # the width, as an axis of params
  'width': (),  # the width of activations
  'layers': (),
  None: (),
}

Axes = tuple[str | None, ...]
# A critic's own column.
VALUE_HEAD_AXES: Mapping[tuple[str, ...], Axes] = {('value_head',): ('embed',)}


def make_mesh(
  data: int = 1,
  fsdp: int = 1,
  tensor: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """Arranges devices as `data x fsdp x tensor`.

  Args:
    data: size; one of the three may be -1, what is left.
    fsdp: size.
    tensor: size.
    devices: by default those of all processes, one process after the other.

  Raises: ConfigError where the product is not the number of devices.
  """
  if devices is None:
    devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
  sizes = [data, fsdp, tensor]
  known = math.prod(s for s in sizes if s != -1)
  if sizes.count(-1) == 1 and known > 0 and len(devices) % known == 0:
    sizes = [len(devices) // known if s == -1 else s for s in sizes]
  if min(sizes) < 1 or math.prod(sizes) != len(devices):
    raise types.ConfigError(
      f'mesh data={data}, fsdp={fsdp}, tensor={tensor} for {len(devices)} '
      'devices: their product must be that number; one of them may be -1.'
    )
  return _mesh(np.asarray(devices).reshape(sizes), AXES)


def own_part(mesh: Mesh) -> Mesh:
  """Returns the part of a mesh that this process holds.

  Raises: ConfigError where the process's devices form no block of the mesh.
  """
  own = np.vectorize(lambda d: d.process_index)(mesh.devices)
  places = np.argwhere(own == jax.process_index())
  block = tuple(
    slice(low, high + 1)
    for low, high in zip(places.min(0), places.max(0), strict=True)
  )
  if mesh.devices[block].size != len(places):
    raise types.ConfigError(
      f'mesh {dict(mesh.shape)} with {len(places)} devices in each process: '
      'they form no block of it. Give sizes of which some product, from '
      'mesh.tensor on, is that number.'
    )
  return _mesh(mesh.devices[block], AXES)


def _mesh(devices: np.ndarray, names: Sequence[str]) -> Mesh:
  auto = (jax.sharding.AxisType.Auto,) * len(names)
  return Mesh(devices, tuple(names), axis_types=auto)


def axis_size(name: str) -> int:
  """Size of a mesh axis where this is traced; 1 without a mesh."""
  return dict(jax.sharding.get_abstract_mesh().shape).get(name, 1)


def constrain(x: Array, *axes: str | None) -> Array:
  """Lays `x` out by its logical axes, where there is a mesh.

  Args:
    x: `[...]`, one axis name for each of its axes.
    axes: keys of `RULES`.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  spec = partition(dict(mesh.shape), x.shape, axes)
  return jax.lax.with_sharding_constraint(x, spec)


def partition(
  mesh_shape: Mapping[str, int],
  shape: Sequence[int],
  axes: Sequence[str | None],
) -> PartitionSpec:
  """Logical axes -> mesh axes, dropping those that do not divide."""
  if len(shape) != len(axes):
    raise ValueError(f'{len(axes)} axes {axes} for an array of shape {shape}.')

  def place(size: int, axis: str | None) -> tuple[str, ...] | None:
    names = tuple(n for n in RULES[axis] if mesh_shape[n] > 1)
    ways = math.prod(mesh_shape[n] for n in names)
    return names if names and size % ways == 0 else None

  return PartitionSpec(*map(place, shape, axes))


# ---- params and what is laid out like them ----------------------------------


def check(model: Model, mesh_shape: Mapping[str, int]) -> None:
  """Every device of the tensor axis must get whole query heads, equally many.

  Raises: ConfigError that lists the sizes which would work.
  """
  heads, ways = model.config.num_heads, mesh_shape['tensor']
  if heads % ways:
    fit = [n for n in range(1, heads + 1) if heads % n == 0]
    raise types.ConfigError(
      f'mesh.tensor={ways} for a model of {heads} query heads: expected a size '
      f'that divides them, one of {fit}. Give the other devices to mesh.fsdp.'
    )


def param_specs(
  mesh_shape: Mapping[str, int], tree: PyTree, model: Model
) -> PyTree:
  """Which mesh axes split each leaf of params, or of a tree that holds them.

  A leaf is known by the names that end its path, so copies of the params
  inside an optimizer's state lie like the params themselves. Scalars, such as
  an optimizer's count, are on every device.

  Args:
    mesh_shape: size of each of `AXES`.
    tree: params, an optimizer's state, or a record of both; arrays or shapes.
    model: whose params they are.

  Returns: the same tree of `PartitionSpec`.

  Raises:
    ConfigError: `tensor` does not divide the query heads.
    ValueError: a leaf is not in `param_axes`, or has other axes than it says.
  """
  check(model, mesh_shape)

  def spec(
    path: tuple[jax.tree_util.KeyEntry, ...], leaf: types.Leaf
  ) -> PartitionSpec:
    if not leaf.shape:
      return PartitionSpec()
    names = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
    axes = _param_axes(names, model, mesh_shape['tensor'])
    if len(axes) != len(leaf.shape):
      raise ValueError(
        f'{jax.tree_util.keystr(path)} has shape {leaf.shape}; expected one '
        f'size for each of {axes}: correct param_axes of the model.'
      )
    return partition(mesh_shape, leaf.shape, axes)

  return jax.tree_util.tree_map_with_path(spec, tree)


def param_shardings(
  mesh: Mesh | AbstractMesh, tree: PyTree, model: Model
) -> PyTree:
  """`param_specs` on the devices of a mesh: for `jax.device_put` and `jit`."""
  specs = param_specs(dict(mesh.shape), tree, model)
  return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def on_own_part(mesh: Mesh, own: Mesh, tree: PyTree, model: Model) -> PyTree:
  """Copies params so that each process has all of them on its own devices.

  All processes call this together.

  Args:
    mesh: of all processes.
    own: its `own_part`.
    tree: params that lie on `mesh`.
    model: whose params they are.

  Returns: params on `own`, laid out as `param_specs` says.
  """
  # Every axis in two: that between the processes and that within one. Params
  # are split by the latter alone.
  sizes = [
    n
    for name in AXES
    for n in (mesh.shape[name] // own.shape[name], own.shape[name])
  ]
  names = [n for name in AXES for n in (f'{name}_between', name)]
  split = _mesh(mesh.devices.reshape(sizes), names)
  specs = param_specs(dict(own.shape), tree, model)
  places = jax.tree.map(lambda spec: NamedSharding(split, spec), specs)

  def here(x: Array, spec: PartitionSpec) -> Array:
    parts = [shard.data for shard in x.addressable_shards]
    place = NamedSharding(own, spec)
    return jax.make_array_from_single_device_arrays(x.shape, place, parts)

  return jax.tree.map(here, jax.jit(_same, out_shardings=places)(tree), specs)


def _same(tree: PyTree) -> PyTree:
  return tree


def _param_axes(
  names: Sequence[str], model: Model, tensor: int
) -> tuple[str | None, ...]:
  """Logical axes of the param whose path ends in `names`."""
  table = {**model.architecture.param_axes, **VALUE_HEAD_AXES}
  stacked = ('layers',) if 'layers' in names else ()
  last = names[-1] if names else ''
  kernel = table.get((*names[-2:-1], 'kernel'))
  if kernel and last == 'lora_a':  # [in, r]
    axes: tuple[str | None, ...] = (kernel[0], None)
  elif kernel and last == 'lora_b':  # [r, out]
    axes = (None, kernel[1])
  else:
    axes_of_param = table.get(tuple(names[-2:]), table.get((last,)))
    if axes_of_param is None:
      raise ValueError(
        f'no rule says how to lay out the param {"/".join(names)!r}: add it to '
        'param_axes of the model.'
      )
    axes = axes_of_param
  if (
    model.config.num_kv_heads % tensor
  ):  # half a head on a device is of no use to it
    axes = tuple(None if a == 'kv_heads' else a for a in axes)
  return (*stacked, *axes)
