"""Episode-level estimators that weigh a task by how hard it is."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from hgpo_jax.advantages import episode, segments
from hgpo_jax.advantages.rows import Rows, assert_shapes, require

Weighting = Literal['soft', 'soft_with_zero']


def bnpo(
  rows: Rows,
  *,
  max_return: float = 10.0,
  limit: float = 1e6,
  count: episode.Count = 'trajectories',
) -> jax.Array:
  """Divides by the density of the task's success rate among all tasks'.

    A = (r - p) min(1 / Beta(p; alpha, beta), limit),   p = mean_g r
    alpha = max(1, 1 + a / 3),   a = (m (1 - m) / v - 1) m
    beta = max(1, 1 + b / 3),    b = (m (1 - m) / v - 1) (1 - m)

  with m and v the mean and the unbiased variance of p over the tasks, so that
  Beta(a, b) fits them. BNPO (https://arxiv.org/abs/2506.02864). Where all tasks
  have one p there is nothing to fit; Beta(1, 1) = 1 is used (ours).

  Args:
    rows: the batch.
    max_return: the highest episode return there is, in reward units; the
      formula is for r in [0, 1], which is the return over this, clipped.
    limit: of the inverse density.
    count: which rows make p; see `episode.grpo`.

  Returns: `[N]` float32; exactly 0 on padding and in a task whose counted r are
    all equal.
  """
  assert_shapes(rows)
  r = _unit_reward(rows, max_return)
  task = episode.task_moments(r, rows, count)
  p = task.mean
  batch = segments.batch_moments(p, rows.mask, _one_per_task(rows))
  m, v = batch.mean, jnp.where(batch.spread, batch.variance('sample'), 1)
  excess = jnp.where(batch.spread, m * (1 - m) / v - 1, 0)
  alpha = jnp.maximum(1, 1 + excess * m / 3)
  beta = jnp.maximum(1, 1 + excess * (1 - m) / 3)
  inside = jnp.where((p > 0) & (p < 1), p, 0.5)  # elsewhere A is 0
  log_density = jax.scipy.stats.beta.logpdf(inside, alpha, beta)
  inverse = jnp.minimum(jnp.exp(-log_density), limit)
  return jnp.where(task.spread, task.centred * inverse, 0)


def a_grae(
  rows: Rows,
  *,
  alpha: float = 1.0,
  max_return: float = 10.0,
  std: segments.Std = 'sample',
  count: episode.Count = 'trajectories',
  eps: float = 1e-6,
) -> jax.Array:
  """Moves the weight from hard tasks to easy ones as the policy improves.

    A' = 1/2 (omega / sqrt(p) + (1 - omega) / sqrt(1 - p)) A_GRPO
    A = A' min(1, omega / alpha) where A' > 0, else A'

  p is the task's success rate and omega the batch's. A-GRAE
  (https://arxiv.org/abs/2602.05548); its released code has 1 - sqrt(p) for
  sqrt(1 - p), this is the paper's.

  Args:
    rows: the batch.
    alpha: the success rate from which successes have their full weight; 1 in
      their mathematics, 0.5 in their multimodal runs.
    max_return: as in `bnpo`; all statistics are of r in [0, 1].
    std: of A_GRPO; see `episode.grpo`.
    count: which rows make all statistics; see `episode.grpo`.
    eps: of A_GRPO, in units of r.

  Returns: `[N]` float32; exactly 0 on padding and in a task whose counted r are
    all equal.
  """
  assert_shapes(rows)
  r = _unit_reward(rows, max_return)
  of_grpo = episode.grpo(
    dataclasses.replace(rows, episode_return=r), std=std, count=count, eps=eps
  )
  p = episode.task_moments(r, rows, count).mean
  p = jnp.where((p > 0) & (p < 1), p, 0.5)  # elsewhere A is 0
  counted = episode.counted_rows(rows, count)
  omega = segments.batch_moments(r, rows.mask, counted).mean
  scale = 0.5 * (omega / jnp.sqrt(p) + (1 - omega) / jnp.sqrt(1 - p))
  advantages = scale * of_grpo
  damped = advantages * jnp.minimum(1, omega / alpha)
  return jnp.where(advantages > 0, damped, advantages)


class CopoTerms(NamedTuple):
  """What COPO's two losses are made of; all `[N]` float32, 0 on padding.

  Attributes:
    local: the advantage within the task.
    across: that of the whole task among the tasks.
    weight: of the local loss; the other one's is 1 - weight.
  """

  local: jax.Array
  across: jax.Array
  weight: jax.Array


def copo_terms(
  rows: Rows,
  *,
  gain: float = 5.0,
  offset: float = 1.0,
  weighting: Weighting = 'soft',
  std: segments.Std = 'sample',
  count: episode.Count = 'trajectories',
  eps: float = 1e-6,
) -> CopoTerms:
  """Compares within a task where outcomes differ, and between tasks elsewhere.

    A_l = (R - mean_g R) / (std_g R + eps)
    A_g = (mean_g R - mean_q) / (std_q + eps),   over the tasks q of the batch
    w = sigmoid(gain (H - offset)),   H = -sum_c p_c log2 p_c

  with p_c the share of the task's episodes that came to the outcome c. COPO
  (https://arxiv.org/abs/2508.04138), without its optional factor of mean_g R.

  Args:
    rows: the batch, with `outcome`.
    gain: slope of the weight, per bit.
    offset: entropy at which both weigh 1/2, in bits.
    weighting: 'soft' as above; 'soft_with_zero' has w = 0 on rows whose return
      is 0, a setting of the released code.
    std: of A_l and A_g, 'sample' (n - 1) or 'population' (n).
    count: which rows make all statistics; see `episode.grpo`.
    eps: floor of both deviations, in reward units.

  Raises:
    ValueError: the rows have no `outcome`, or an option an unknown name.
  """
  assert_shapes(rows)
  outcome = require(rows, 'outcome')
  counted = episode.counted_rows(rows, count)
  task = episode.task_moments(rows.episode_return, rows, count)
  batch = segments.batch_moments(task.mean, rows.mask, _one_per_task(rows))
  clusters = episode.joined(rows.mask, rows.task, outcome)
  members = segments.group_moments(rows.returns, clusters, counted).count
  share = jnp.where(counted, members / jnp.maximum(task.count, 1), 1)
  entropy = episode.task_moments(-jnp.log2(share), rows, count).mean
  weight = jax.nn.sigmoid(gain * (entropy - offset))
  if weighting == 'soft_with_zero':
    weight = jnp.where(rows.episode_return != 0, weight, 0)
  elif weighting != 'soft':
    raise ValueError(
      f"Got weighting={weighting!r}, expected 'soft' or 'soft_with_zero'."
    )
  return CopoTerms(
    local=segments.relative(task, 'mean_std', std, eps),
    across=segments.relative(batch, 'mean_std', std, eps),
    weight=jnp.where(rows.mask, weight, 0),
  )


def copo(
  rows: Rows,
  *,
  gain: float = 5.0,
  offset: float = 1.0,
  weighting: Weighting = 'soft',
  std: segments.Std = 'sample',
  count: episode.Count = 'trajectories',
  eps: float = 1e-6,
) -> jax.Array:
  """Mixes COPO's two advantages into one.

    A = w A_l + (1 - w) A_g

  COPO mixes two losses, w L(A_l) + (1 - w) L(A_g). Where a ratio is 1 nothing
  is clipped, -A times the ratio is linear in A, and so the gradients of the mix
  and of L(A) are equal: in the first step of every iteration, and in all steps
  where no ratio meets a clip. Beyond that, they differ where A_l and A_g have
  opposite signs, which are clipped on opposite sides.

  Args:
    rows: the batch, with `outcome`.
    gain: slope of the weight w, per bit.
    offset: entropy at which both weigh 1/2, in bits.
    weighting: 'soft', or 'soft_with_zero'; see `copo_terms`.
    std: of A_l and A_g, 'sample' (n - 1) or 'population' (n).
    count: which rows make the statistics; see `episode.grpo`.
    eps: floor of the spread, in reward units.

  Raises: see `copo_terms`.

  Returns: `[N]` float32; exactly 0 on padding and in a batch without spread.
  """
  assert_shapes(rows)
  terms = copo_terms(
    rows,
    gain=gain,
    offset=offset,
    weighting=weighting,
    std=std,
    count=count,
    eps=eps,
  )
  return terms.weight * terms.local + (1 - terms.weight) * terms.across


def _unit_reward(rows: Rows, max_return: float) -> jax.Array:
  return jnp.clip(rows.episode_return / max_return, 0, 1)


def _one_per_task(rows: Rows) -> jax.Array:
  """Marks one row of each task, `[N]` bool."""
  size = rows.mask.shape[0]
  place = jnp.where(rows.mask, jnp.arange(size), size)
  task = jnp.where(rows.mask, rows.task, 0)
  first = jax.ops.segment_min(place, task, size)
  return rows.mask & (place == first[task])
