"""The record that every advantage estimator reads: one row per agent turn."""

from __future__ import annotations

import collections
from collections.abc import Hashable, Iterable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct


@struct.dataclass
class Rows:
  """N agent turns, in any order; padding anywhere, marked by `mask`.

  The ids are small integers that the host made with `intern`, so that equal
  ids mean equal things, exactly: no hash, no collision. Those of observations
  and actions are compared only within a task, and numbered there
  (`intern_within`): the fewer their bits, the faster they are sorted.

  Attributes:
    task: `[N]` int32 in [0, N), the group of episodes that share a start.
    traj: `[N]` int32 in [0, N), the episode; unique across tasks.
    turn: `[N]` int32, 0-based turn in the episode; no (traj, turn) twice.
    obs: `[N]` int32 in [0, N), what the agent saw before it acted; its
      number in the task.
    act: `[N]` int32 in [0, N), what it did; its number in the task.
    episode_return: `[N]` float32, the episode's total reward, copied to each
      of its rows (and lowered on a row whose reply was invalid).
    returns: `[N]` float32, discounted return from this turn on.
    mask: `[N]` bool, False on padding, where the other fields do not count.
    agent: `[N]` int32 in [0, N), who acted, where several agents play; or None.
    scores: `[N, C]` float32, C rewards of the episode that are standardised
      separately, copied to each of its rows; or None.
    outcome: `[N]` int32 in [0, N), outcome of the episode (its answer or
      final state), copied to each of its rows; or None.
  """

  task: jax.Array
  traj: jax.Array
  turn: jax.Array
  obs: jax.Array
  act: jax.Array
  episode_return: jax.Array
  returns: jax.Array
  mask: jax.Array
  agent: jax.Array | None = None
  scores: jax.Array | None = None
  outcome: jax.Array | None = None


def intern(values: Iterable[Hashable]) -> np.ndarray:
  """Numbers equal values alike, in the order of first appearance.

  Returns: `[N]` int32 in [0, number of distinct values), for N values.
  """
  numbers: dict[Hashable, int] = {}
  return np.fromiter(
    (numbers.setdefault(value, len(numbers)) for value in values), np.int32
  )


def intern_within(
  owners: Iterable[Hashable], values: Iterable[Hashable]
) -> np.ndarray:
  """Numbers equal values of one owner alike, each owner's from 0 on.

  Args:
    owners: N of them, such as the task of each row.
    values: N, compared only with those of the same owner.

  Returns: `[N]` int32 in [0, number of that owner's distinct values).
  """
  tables: dict[Hashable, dict[Hashable, int]] = collections.defaultdict(dict)
  own = ((tables[o], value) for o, value in zip(owners, values, strict=True))
  return np.fromiter(
    (table.setdefault(value, len(table)) for table, value in own), np.int32
  )


def pad(rows: Rows, size: int) -> Rows:
  """Appends masked rows up to `[size]`, so that one compilation serves all.

  Raises:
    ValueError: there are more than `size` rows.
  """
  extra = size - rows.mask.shape[0]
  if extra < 0:
    raise ValueError(
      f'Got {rows.mask.shape[0]} rows for a batch of {size}: pad to at least '
      'tasks x episodes x turns.'
    )
  return jax.tree.map(
    lambda x: jnp.pad(x, [(0, extra)] + [(0, 0)] * (x.ndim - 1)), rows
  )


def require(rows: Rows, field: str) -> jax.Array:
  """Returns an optional field of the rows.

  Raises:
    ValueError: it is None.
  """
  value: jax.Array | None = getattr(rows, field)
  if value is None:
    raise ValueError(
      f'Got rows without {field}, which this estimator compares by: fill '
      f'Rows.{field}, or choose another estimator.'
    )
  return value


def assert_shapes(rows: Rows) -> None:
  """Asserts the shapes that `Rows` states; costs nothing once traced.

  Raises:
    AssertionError: a field has another shape.
  """
  size = rows.mask.size
  fields = [x for n, x in vars(rows).items() if n != 'scores' and x is not None]
  chex.assert_shape(fields, (size,))
  if rows.scores is not None:
    chex.assert_shape(rows.scores, (size, None))


def check(rows: Rows) -> None:
  """Refuses rows that break the record's promises. Host-side, before jit.

  Raises:
    ValueError: a shape differs, an id is out of range, a (traj, turn) stands
      twice, an episode has two tasks, or a number is not finite.
  """
  fields = {n: np.asarray(x) for n, x in vars(rows).items() if x is not None}
  shapes = {
    n: x.shape[:1] if n == 'scores' else x.shape for n, x in fields.items()
  }
  if len(set(shapes.values())) > 1 or fields['mask'].ndim != 1:
    raise ValueError(f'Got shapes {shapes}, expected one [N] for all fields.')
  size = fields['mask'].size
  real = {name: field[fields['mask']] for name, field in fields.items()}
  for name in {'task', 'traj', 'turn', 'obs', 'act', 'agent', 'outcome'} & {
    *real
  }:
    if ((real[name] < 0) | (real[name] >= size)).any():
      raise ValueError(
        f'Got {name} ids from {real[name].min()} to {real[name].max()}, '
        f'expected ids in [0, {size}): number them per batch with intern().'
      )
  turns = set(zip(real['traj'].tolist(), real['turn'].tolist(), strict=True))
  owners = set(zip(real['traj'].tolist(), real['task'].tolist(), strict=True))
  if len(turns) < real['turn'].size or len(owners) > len(set(real['traj'])):
    raise ValueError(
      'Got one (traj, turn) twice or one traj under two tasks, expected a '
      'traj id per episode: number episodes across the whole batch.'
    )
  for name in {'episode_return', 'returns', 'scores'} & {*real}:
    if not np.isfinite(real[name]).all():
      raise ValueError(f'Got {name} that is not finite; expected real rewards.')
