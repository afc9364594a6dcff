"""Episode-level estimators for small and for uniform groups."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hgpo_jax.advantages import episode, segments
from hgpo_jax.advantages.rows import Rows, assert_shapes


def ngrpo(
  rows: Rows,
  *,
  max_return: float = 10.0,
  std: segments.Std = 'sample',
  count: episode.Count = 'trajectories',
  eps: float = 1e-6,
) -> jax.Array:
  """Standardises returns as if each task had one more, perfect, episode.

    A = (R - mean_{g+} R) / (std_{g+} R + eps),   g+ = g and one R = max_return

  So all rows of a task in which every episode failed get one negative
  value. NGRPO (https://arxiv.org/abs/2509.18851), which clips its ratios at
  0.16 and 0.24.

  Args:
    rows: the batch.
    max_return: the highest episode return there is, in reward units; by default
      that of a success under the default reward scale.
    std: 'sample' (n + 1 members less 1, as released) or 'population'.
    count: which rows make the statistics; see `episode.grpo`.
    eps: floor of the spread, in reward units.

  Returns: `[N]` float32; exactly 0 on padding and in a task whose counted
    returns all are `max_return`.
  """
  assert_shapes(rows)
  real = episode.task_moments(rows.episode_return, rows, count)
  gap = max_return - real.mean  # exact where all returns are equal
  moments = segments.Moments(
    count=real.count + 1,
    mean=real.mean + gap / (real.count + 1),
    centred=real.centred - gap / (real.count + 1),
    squares=real.squares + gap**2 * real.count / (real.count + 1),
    spread=rows.mask & (real.spread | (gap != 0)),
  )
  return segments.relative(moments, 'mean_std', std, eps)


def mc_grpo(
  rows: Rows,
  *,
  rescale: bool = False,
  limit: float = 10.0,
  count: episode.Count = 'trajectories',
  eps: float = 1e-3,
) -> jax.Array:
  """Measures returns from the task's median, in median absolute deviations.

    A = (R - med_g R) / (med_g |R - med_g R| + eps)

  A mean of few episodes is itself noise; their median is less so. MC-GRPO
  (https://arxiv.org/abs/2601.22582) plays an odd number and leaves one median
  episode, whose advantage is 0, out of the loss: see `mc_grpo_kept`. Of an even
  number this is the lower median.

  Args:
    rows: the batch.
    rescale: multiplies by n / (number of counted returns off the median), as
      the released code does.
    limit: largest absolute advantage (ours; inf, as in the paper, is off).
      With two-valued rewards most returns equal the median, the deviation is
      0, and A reaches 1 / eps.
    count: which rows make the medians; see `episode.grpo`.
    eps: floor of the deviation, in reward units.

  Returns: `[N]` float32; exactly 0 on padding and in a task whose counted
    returns are all equal.
  """
  assert_shapes(rows)
  ids, counted = episode.task_ids(rows), episode.counted_rows(rows, count)
  moments = segments.group_moments(rows.episode_return, ids, counted)
  off = _off_median(rows, ids, counted)
  deviation = segments.lower_median(jnp.abs(off), ids, counted)
  advantages = off / (deviation + eps)
  if rescale:
    share = segments.group_moments(off != 0, ids, counted).mean
    advantages /= jnp.where(share > 0, share, 1)
  return jnp.where(moments.spread, jnp.clip(advantages, -limit, limit), 0)


def mc_grpo_kept(
  rows: Rows, *, count: episode.Count = 'trajectories'
) -> jax.Array:
  """Which rows stay in MC-GRPO's loss: all but one median episode per task.

  Of several episodes at the median the one with the smallest id goes, wherever
  its rows lie.

  Args:
    rows: the batch.
    count: as given to `mc_grpo`.

  Returns: `[N]` bool, False on padding and on the rows of those episodes.
  """
  assert_shapes(rows)
  ids, counted = episode.task_ids(rows), episode.counted_rows(rows, count)
  off = _off_median(rows, ids, counted)
  last = jnp.iinfo(jnp.int32).max
  median = jnp.where(counted & (off == 0), rows.traj, last)
  dropped = jax.ops.segment_min(
    median, jnp.where(rows.mask, rows.task, 0), rows.mask.shape[0]
  )
  return rows.mask & (rows.traj != dropped[rows.task])


def _off_median(rows: Rows, ids: jax.Array, counted: jax.Array) -> jax.Array:
  """How far each return is from its task's median, `[N]`; 0 on padding."""
  median = segments.lower_median(rows.episode_return, ids, counted)
  return jnp.where(rows.mask, rows.episode_return - median, 0)
