"""State on disk: atomic, the last few kept, damage and misfits refused.

Each array has a checksum of ours, as orbax verifies none: with one bit of an
array's file flipped it restores other numbers without an error (orbax 0.12, in
60 of 60 trials). What would be a silent change of the policy is refused here.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from hgpo_jax.types import Leaf, Params, PyTree


class CheckpointError(Exception):
  """A checkpoint is missing, damaged, or belongs to another configuration."""


@contextlib.contextmanager
def opened(folder: str | pathlib.Path) -> Iterator[Checkpoints]:
  """Opens an existing folder of checkpoints to read."""
  if not pathlib.Path(folder).is_dir():
    raise CheckpointError(
      f'{folder} does not exist; give the folder that a training run wrote.'
    )
  with contextlib.closing(Checkpoints(folder)) as store:
    yield store


class Checkpoints:
  """The checkpoints of one run: a folder, one sub-folder per step."""

  def __init__(self, folder: str | pathlib.Path, keep: int | None = None):
    """Opens (and creates) `folder`; keeps the newest `keep`, None keeps all."""
    self.folder = pathlib.Path(folder).absolute()
    self._manager = ocp.CheckpointManager(
      self.folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=False
      ),
      item_handlers={
        'state': ocp.StandardCheckpointHandler(),
        'meta': ocp.JsonCheckpointHandler(),
      },
    )

  def latest(self) -> int | None:
    """Returns the newest complete step, None if there is none."""
    return self._manager.latest_step()

  def save(self, step: int, state: PyTree, meta: Mapping[str, Any]) -> None:
    """Writes `state` (a pytree of arrays) and `meta` (JSON) as one unit.

    A step that is there already is left as it is: it holds the same state.
    """
    if step in self._manager.all_steps():
      return
    written = self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        meta=ocp.args.JsonSave({**meta, 'checksums': _checksums(state)}),
      ),
    )
    self._manager.wait_until_finished()
    if not written:
      raise CheckpointError(
        f'{self.folder} holds later steps than {step}: '
        f'{sorted(self._manager.all_steps())}. Resume that run, or give '
        'another run_dir.'
      )

  def meta(self, step: int | None = None) -> dict[str, Any]:
    """Reads the `meta` of `step` (default: the newest)."""
    step = self._known(step)
    try:
      restored = self._manager.restore(
        step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
      )
      return dict(restored['meta'])
    except Exception as error:  # orbax raises many kinds for a broken file
      raise self._damaged(step, error) from error

  def restore(self, like: PyTree, step: int | None = None) -> PyTree:
    """Reads the state of `step` (default: the newest).

    Args:
      like: a pytree with the shapes, dtypes and shardings that are expected.
      step: which one.

    Raises:
      CheckpointError: nothing there; another structure or other shapes (each
        differing leaf is named); unreadable files; wrong checksums.
    """
    step = self._known(step)
    self._check_fit(step, like)
    try:
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(jax.tree.map(_placed, like))
        ),
      )
    except Exception as error:
      raise self._damaged(step, error) from error
    self._check_sums(step, restored['state'])
    return restored['state']

  def restore_params(self, like: Params, step: int | None = None) -> Params:
    """Reads the `params` of a saved state alone; see `restore`.

    Args:
      like: a pytree with the params' expected shapes and dtypes.
      step: which one.
    """
    step = self._known(step)
    tree = {'params': jax.tree.map(_placed, like)}
    self._check_fit(step, tree, 'params/')
    args = ocp.args.PyTreeRestore(
      tree,
      restore_args=ocp.checkpoint_utils.construct_restore_args(tree),
      partial_restore=True,
    )
    try:
      with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        restored = reader.restore(self.folder / str(step) / 'state', args=args)
    except Exception as error:
      raise self._damaged(step, error) from error
    self._check_sums(step, restored)
    return restored['params']

  def close(self) -> None:
    """Closes orbax's manager."""
    self._manager.close()

  def _known(self, step: int | None) -> int:
    steps = self._manager.all_steps()
    if step is None and steps:
      return max(steps)
    if step is None or step not in steps:
      raise CheckpointError(
        f'{self.folder} holds no checkpoint'
        f'{"" if step is None else f" {step}"} (steps there: {sorted(steps)}). '
        'Give a folder that a training run wrote; a run that has saved nothing '
        'starts from the beginning, without --resume.'
      )
    return step

  def _check_sums(self, step: int, state: PyTree) -> None:
    """Refuses arrays that differ from those that were saved."""
    saved = self.meta(step)['checksums']
    wrong = sorted(
      name for name, sum_ in _checksums(state).items() if saved[name] != sum_
    )
    if wrong:
      raise self._damaged(step, f'checksums differ in {", ".join(wrong[:5])}')

  def _check_fit(self, step: int, like: PyTree, part: str = '') -> None:
    """Refuses a state whose leaves have other names or shapes than `like`.

    Args:
      step: which one.
      like: what is expected.
      part: a prefix; leaves with other names are ignored.
    """
    try:
      saved = self._manager.item_metadata(step)['state']
    except Exception as error:
      raise self._damaged(step, error) from error
    old = {
      name: _kind(leaf)
      for name, leaf in _leaves(saved)
      if name.startswith(part)
    }
    new = {name: _kind(leaf) for name, leaf in _leaves(like)}
    wrong = [
      f'{name}: {old.get(name, "absent")} -> {new.get(name, "absent")}'
      for name in sorted(old.keys() | new.keys())
      if old.get(name) != new.get(name)
    ]
    if wrong:
      raise CheckpointError(
        f'checkpoint {step} in {self.folder} does not fit this policy; '
        f'{len(wrong)} arrays differ (saved -> expected): '
        f'{"; ".join(wrong[:8])}. Use the config that it was trained with.'
      )

  def _damaged(self, step: int, why: object) -> CheckpointError:
    others = [s for s in self._manager.all_steps() if s != step]
    text = str(why).strip().split('\n')[0][:300]
    return CheckpointError(
      f'checkpoint {step} in {self.folder} is damaged ({text}). Delete the '
      f'folder {step} there'
      + (f' to fall back on step {max(others)}.' if others else '.')
    )


def _placed(leaf: Leaf) -> jax.ShapeDtypeStruct:
  """What to read for a leaf: by default on the first device.

  Orbax would look for the devices that it was saved from.
  """
  struct = ocp.utils.to_shape_dtype_struct(leaf)
  place = getattr(struct, 'sharding', None)
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(
    struct.shape, struct.dtype, sharding=place or here
  )


def _leaves(tree: PyTree) -> list[tuple[str, Any]]:
  """Lists (path, leaf); the same names for our trees and for orbax's."""
  return [
    ('/'.join(_key(k) for k in path if _key(k) != 'value'), leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  ]


def _kind(leaf: Leaf) -> str:
  return f'{np.dtype(leaf.dtype).name}{list(leaf.shape)}'


def _key(entry: jax.tree_util.KeyEntry) -> str:
  for field in ('key', 'name', 'idx'):
    if hasattr(entry, field):
      return str(getattr(entry, field))
  return str(entry)


def _checksums(state: PyTree) -> dict[str, int]:
  """Leaf's name -> its checksum; computed where the leaves are."""
  names = [name for name, _ in _leaves(state)]
  sums = jax.device_get(_sums([leaf for _, leaf in _leaves(state)]))
  return {name: int(x) for name, x in zip(names, sums, strict=True)}


@jax.jit
def _sums(leaves: list[jax.Array]) -> list[jax.Array]:
  return [checksum(leaf) for leaf in leaves]


def checksum(x: jax.Array) -> jax.Array:
  """Adds up the bits of all elements, each times an odd number of its place.

  Modulo 2^32, and so the same on any layout of devices. A single element that
  differs always changes it; other damage is missed once in 2^32 times.

  Args:
    x: of any shape, and any type of at most 32 bits.

  Returns: `[]` uint32.
  """
  bits = x
  if jnp.issubdtype(x.dtype, jnp.floating):
    bits = jax.lax.bitcast_convert_type(x, f'uint{8 * x.dtype.itemsize}')
  place = jnp.zeros(x.shape, jnp.uint32)
  for axis, size in enumerate(x.shape):
    of_axis = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    place = place * np.uint32(size) + of_axis
  return jnp.sum(bits.astype(jnp.uint32) * (2 * place + 1), dtype=jnp.uint32)
