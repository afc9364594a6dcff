"""Episode-level estimators whose scale is that of the whole batch.

A task's advantages depend here on the other tasks, through one positive factor
(and in `reinforce_pp` one shift) that all rows share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from hgpo_jax.advantages import episode, segments
from hgpo_jax.advantages.rows import Rows, assert_shapes, require


def reinforce_pp(
  rows: Rows, *, std: segments.Std = 'sample', eps: float = 1e-8
) -> jax.Array:
  """Whitens the discounted returns of all turns of the batch.

    A = (ret - mean_B ret) / sqrt(var_B ret + eps)

  REINFORCE++, Hu et al. 2025 (https://arxiv.org/abs/2501.03262). There every
  token has a return, which holds the KL penalty; here every turn has one, and
  the KL stands in the loss.

  Args:
    rows: the batch.
    std: 'sample' (n - 1, as in the public trainers) or 'population' (n).
    eps: added to the variance, in squared reward units.

  Returns: `[N]` float32; exactly 0 on padding and in a batch of equal returns.
  """
  assert_shapes(rows)
  return segments.whiten(rows.returns, rows.mask, std=std, eps=eps)


def reinforce_pp_baseline(
  rows: Rows,
  *,
  std: segments.Std = 'sample',
  count: episode.Count = 'rows',
  singleton: episode.Singleton = 'zero',
  eps: float = 1e-8,
) -> jax.Array:
  """Compares episodes within their task, then whitens over the batch.

    a = R - mean_g R,   A = (a - mean_B a) / sqrt(var_B a + eps)

  The variant of REINFORCE++ (https://arxiv.org/abs/2501.03262) for several
  episodes per task.

  Args:
    rows: the batch.
    std: as in `reinforce_pp`.
    count: which rows make both means and the variance; see `episode.grpo`.
    singleton: as in `episode.grpo`, of a. The public trainers have 'raw'.
    eps: added to the variance, in squared reward units.

  Returns: `[N]` float32; exactly 0 on padding, and with singleton='zero' in a
    task whose counted returns are all equal.
  """
  assert_shapes(rows)
  centred = episode.dr_grpo(rows, count=count, singleton=singleton)
  counted = episode.counted_rows(rows, count)
  moments = segments.batch_moments(centred, rows.mask, counted)
  if singleton == 'zero':  # mean_B a is 0 but for rounding, which is left out
    moments = dataclasses.replace(moments, centred=centred)
  return segments.whitened(moments, std, eps)


def lite_ppo(
  rows: Rows,
  *,
  std: segments.Std = 'sample',
  count: episode.Count = 'trajectories',
  eps: float = 1e-6,
) -> jax.Array:
  """Takes the mean of the task and the deviation of the batch.

    A = (R - mean_g R) / (std_B R + eps)

  Lite PPO, Liu et al. 2025 (https://arxiv.org/abs/2508.08221), which goes with
  the loss aggregation 'token-mean' and no KL.

  Args:
    rows: the batch.
    std: 'sample' (n - 1) or 'population' (n), of the returns themselves.
    count: which rows make both statistics; see `episode.grpo`.
    eps: floor of the spread, in reward units.

  Returns: `[N]` float32; exactly 0 on padding and in a task whose counted
    returns are all equal, so also for an episode alone in its task.
  """
  assert_shapes(rows)
  task = episode.task_moments(rows.episode_return, rows, count)
  counted = episode.counted_rows(rows, count)
  batch = segments.batch_moments(rows.episode_return, rows.mask, counted)
  mixed = dataclasses.replace(batch, centred=task.centred, spread=task.spread)
  return segments.relative(mixed, 'mean_std', std, eps)


def gdpo(
  rows: Rows,
  *,
  weights: Sequence[float] = (),
  std: segments.Std = 'sample',
  count: episode.Count = 'trajectories',
  eps: float = 1e-6,
) -> jax.Array:
  """Standardises several rewards one by one, adds them, and scales the sum.

    a = sum_c w_c (r_c - mean_g r_c) / (std_g r_c + eps)
    A = a / (std_B a + eps)

  A sum of rewards that is standardised as a whole does not distinguish
  combinations of equal sum; this does. GDPO
  (https://arxiv.org/abs/2601.05242). The paper also subtracts the mean over the
  batch, which is 0 here, since each task's is; what rounding leaves of it is
  not subtracted, so that 0 stays 0.

  Args:
    rows: the batch, with `scores [N, C]`.
    weights: w_c, C numbers; () weighs all scores alike, by 1.
    std: 'sample' (n - 1) or 'population' (n), of both deviations.
    count: which rows make all statistics; see `episode.grpo`.
    eps: floor of both deviations, in units of the scores.

  Returns: `[N]` float32; exactly 0 on padding and in a task where no score has
    spread.

  Raises:
    ValueError: the rows have no `scores`, or not as many as weights.
  """
  assert_shapes(rows)
  scores = require(rows, 'scores')
  if len(weights) not in (0, scores.shape[1]):
    raise ValueError(
      f'Got {len(weights)} weights for {scores.shape[1]} scores: give one '
      'weight per score, or () for equal ones.'
    )

  def judged(score: jax.Array) -> jax.Array:
    of_score = dataclasses.replace(rows, episode_return=score)
    return episode.grpo(of_score, std=std, count=count, eps=eps)

  parts = jax.vmap(judged, in_axes=1, out_axes=1)(scores)  # [N, C]
  weights = weights or [1.0] * scores.shape[1]
  total = (parts * jnp.asarray(weights)[None]).sum(1)
  counted = episode.counted_rows(rows, count)
  batch = segments.batch_moments(total, rows.mask, counted)
  return segments.relative(
    dataclasses.replace(batch, centred=total), 'mean_std', std, eps
  )
