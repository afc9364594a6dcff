"""Groups of rows: exact dense ids by sorting, and masked moments per group.

Everything is `[N]` with a static N: there are never more groups than rows, so
N is also the number of segments, and one compilation serves every batch.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

Normalisation = Literal['mean', 'mean_std']
Std = Literal['sample', 'population']

DDOF: dict[str, int] = {'sample': 1, 'population': 0}


def lexical_order(columns: jax.Array) -> jax.Array:
  """Sorts rows by their first column, then by their second, and so on.

  Least significant column first, each pass stable. Below 2^16 rows a pass packs
  (key, position) into one uint32: XLA's CPU sort of a single array is several
  times faster than one that carries a payload or compares many keys.

  Args:
    columns: `[C, N]` int32 in [-1, N).

  Returns: `[N]` int32, the row at each place of the sorted sequence.
  """
  size = columns.shape[1]
  place = jnp.arange(size, dtype=jnp.uint32)
  order = place.astype(jnp.int32)
  for column in columns[::-1]:
    key = column[order]
    if size < 2**16:  # (key + 1) * size + place stays below 2^32
      packed = jnp.sort((key + 1).astype(jnp.uint32) * size + place)
      order = order[packed % size]
    else:
      order = order[jnp.argsort(key, stable=True)]
  return order


def prefix_ids(columns: jax.Array) -> jax.Array:
  """Numbers the distinct values of every prefix of each row's key.

  Args:
    columns: `[C, N]` int32 in [-1, N); -1 where the key has ended.

  Returns: `[C, N]` int32. Entry [c, n] is the id, dense in [0, groups), that
    row n shares with just the rows of equal columns 0..c; -1 where one of these
    columns is -1.
  """
  order = lexical_order(columns)
  ordered = columns[:, order]  # [C, N]; equal prefixes lie side by side
  differs = ordered != jnp.roll(ordered, 1, axis=1)
  differs = differs.at[:, 0].set(True)
  starts = jnp.cumsum(differs, axis=0) > 0  # some column of the prefix differs
  present = lax.cummin(ordered, axis=0) >= 0
  ids = jnp.cumsum(starts & present, axis=1, dtype=jnp.int32) - 1
  ids = jnp.where(present, ids, -1)
  return jnp.zeros_like(columns).at[:, order].set(ids)


@struct.dataclass
class Moments:
  """What each row knows about its group; all `[N]`, 0 or False without one.

  Attributes:
    count: number of members that count.
    mean: their mean.
    centred: the row's own value minus that mean.
    squares: sum of the members' squared distances from the mean.
    spread: whether the members differ at all. Exact, whatever the summation
      order: rounding in the mean cannot fake it.
  """

  count: jax.Array
  mean: jax.Array
  centred: jax.Array
  squares: jax.Array
  spread: jax.Array

  def variance(self, std: Std) -> jax.Array:
    """Variance `[N]` over n members ('population') or n - 1 ('sample')."""
    return self.squares / jnp.maximum(self.count - DDOF[std], 1)


def group_moments(
  values: jax.Array, ids: jax.Array, counted: jax.Array | None = None
) -> Moments:
  """Moments of each row's group, in float32.

  Args:
    values: `[N]` float.
    ids: `[N]` int32 in [-1, N); -1 for a row without a group.
    counted: `[N]` bool, the rows whose values make the moments (every grouped
      row if None). The other rows of the group are measured against them.
  """
  size = ids.shape[0]
  grouped = ids >= 0
  counted = grouped if counted is None else grouped & counted
  place = jnp.where(grouped, ids, 0)
  values = jnp.where(grouped, values, 0).astype(jnp.float32)

  def total(x: jax.Array) -> jax.Array:
    summed = jax.ops.segment_sum(jnp.where(counted, x, 0), place, size)
    return jnp.where(grouped, summed[place], 0)

  count = total(jnp.ones_like(values))
  low, high = _extremes(values, place, counted)
  low, high = (jnp.where(grouped & (count > 0), x, 0) for x in (low, high))
  # Counted from the group's smallest value: large equal parts cancel exactly.
  above = values - low
  mean = total(above) / jnp.maximum(count, 1)
  centred = jnp.where(grouped, above - mean, 0)
  return Moments(
    count=count,
    mean=low + mean,
    centred=centred,
    squares=total(centred**2),
    spread=high > low,
  )


def _extremes(
  values: jax.Array, place: jax.Array, counted: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Smallest and largest counted value of each row's group, each `[N]`.

  Constants for the gradient: a shift by `low` has none, and the choice which
  members are extreme is not smooth.
  """
  values, size = lax.stop_gradient(values), values.shape[0]
  low = jax.ops.segment_min(jnp.where(counted, values, jnp.inf), place, size)
  high = jax.ops.segment_max(jnp.where(counted, values, -jnp.inf), place, size)
  return low[place], high[place]


def relative(
  moments: Moments, normalisation: Normalisation, std: Std, eps: float
) -> jax.Array:
  """Each row's distance from its group's mean, in units of its choice.

    'mean':     x - mean
    'mean_std': (x - mean) / (std + eps)

  Args:
    moments: of the row's group.
    normalisation: which of the two.
    std: 'sample' (n - 1) or 'population' (n).
    eps: floor of the standard deviation, in units of x.

  Returns: `[N]` float32; exactly 0 in a group without spread.
  Raises:
    ValueError: the normalisation has another name.
  """
  if normalisation == 'mean':
    scale = jnp.ones_like(moments.centred)
  elif normalisation == 'mean_std':
    # The root of a stand-in where there is no spread: its slope at 0 is inf.
    variance = jnp.where(moments.spread, moments.variance(std), 1)
    scale = jnp.sqrt(variance) + eps
  else:
    raise ValueError(
      f"Got normalisation={normalisation!r}, expected 'mean' or 'mean_std'."
    )
  return jnp.where(moments.spread, moments.centred / scale, 0)
