"""HGPO with weights from the data: empirical Bayes over nested contexts."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from hgpo_jax.advantages import grouping, segments
from hgpo_jax.advantages.rows import Rows, assert_shapes


def hgpo_shrink(
  rows: Rows,
  *,
  depth: int = 2,
  contexts: grouping.Contexts = 'states',
  normalisation: segments.Normalisation = 'mean_std',
  eps: float = 1e-6,
) -> jax.Array:
  """Shrinks the mean of each context towards that of the shorter context.

  A row's groups are nested, G_0 > G_1 > ... > G_K: ever longer shared
  histories. The longer the history, the better its mean fits the row and the
  fewer returns it is made of. HGPO (https://arxiv.org/abs/2602.22817) uses
  the same weights (k + 1)^alpha for all rows; here they follow from group
  sizes and measured spreads. Nothing is tuned. The model:

    theta_k = theta_{k-1} + delta_k,  delta_k ~ N(0, tau_k^2),  theta_0 flat,
    ret     = theta_K + what the actions and chance made of it,

  theta_k the value of the row's context of length k. Let m_k be the mean of the
  n_k returns of G_k, with Var(m_k | theta_k) = sigma_k^2 / n_k. Given the
  parent's value, the posterior mean of theta_k weighs m_k against it by their
  precisions (Efron & Morris 1973,
  https://doi.org/10.1080/01621459.1973.10481350). Top down that is

    v_0 = m_0,   v_k = B_k m_k + (1 - B_k) v_{k-1},
    B_k = tau_k^2 / (tau_k^2 + sigma_k^2 / n_k),

  and the advantage has HGPO's form, with weights that sum to 1:

    A = ret - v_K = sum_k w_k (ret - m_k),
    w_k = B_k prod_{j>k} (1 - B_j),   B_0 = 1.

  The recursion is the exact posterior mean if m_k weighs the children of G_k by
  their precisions; the plain mean is the same where they are equally large.
  The row's own return is in m_k: it is data on theta_K like any other.

  As in HGPO, a level counts only where its group's returns differ; else
  B_k = 0. The model would let a context that was met once take a part of the
  advantage away, and one could leave a row's whole episode out of its means.
  Both were farther from the true advantages in trials with the cells of
  `experiments/advantage_lab.py`: an episode's later visits to a state tell what
  walking in a circle cost it.

  **Spreads.** By the method of moments, per task, from a nested analysis of
  variance (Searle 1971, Linear Models, ch. 11). SS_k sums the squared distances
  of the level-k means from their parent's mean, one term per row, on f_k
  degrees of freedom; K + 1 stands for the rows themselves.

    sigma_k^2 = SS_{k+1} / f_{k+1},
    tau_k^2   = max(0, SS_k - f_k sigma_k^2) / c_k,
    c_k       = sum over rows of 1 - n_child / n_parent.

  sigma_k^2 is the next level's mean square rather than the plain variance
  inside G_k: members that share a longer context move together, and in a
  balanced tree exactly this over n_k is the variance of m_k. Rows without a
  level k are left out of its sums. Where f_{k+1} = 0 (no context splits
  further), sigma_k^2 is the variance inside G_k after all.

  Args:
    rows: the batch.
    depth: K, earlier turns in the longest context; static.
    contexts: what contexts are made of, see `grouping.context_ids`.
    normalisation: 'mean' as above, in reward units. 'mean_std' divides by the
      task's pooled standard deviation of returns inside states, one number for
      all rows of a task, so that the weights stay those of the model.
    eps: floor of that spread, in reward units.

  Returns: `[N]` float32; exactly 0 on padding and in a state whose returns are
    all equal.

  Raises:
    ValueError: an option has an unknown name.
  """
  assert_shapes(rows)
  groups = grouping.context_ids(rows, depth=depth, contexts=contexts)
  levels = jax.vmap(segments.group_moments, (None, 0))(rows.returns, groups)
  advantages = levels.centred[0]
  shares = _shares(rows, levels, groups)
  for share, centred in zip(shares, levels.centred[1:], strict=True):
    advantages += share * (centred - advantages)
  return _scaled(advantages, rows, levels, normalisation, eps)


def _shares(
  rows: Rows, levels: segments.Moments, groups: jax.Array
) -> list[jax.Array]:
  """B_k `[N]` for k = 1..K, found from the deepest level upwards.

  Args:
    rows: the batch.
    levels: moments `[K+1, N]` of every level's groups.
    groups: `[K+1, N]` ids, -1 without a group.
  """
  member = groups[1:] >= 0  # [K, N], as all below
  n = jnp.maximum(levels.count[1:], 1)
  parents = jnp.where(member, groups[:-1], -1)
  around = jax.vmap(segments.group_moments)(levels.mean[1:], parents)
  parent_n = jnp.maximum(around.count, 1)
  total = jax.vmap(functools.partial(_task_total, rows))
  inside = _ratio(
    total(levels.centred[1:] ** 2, member), total(1 - 1 / n, member)
  )
  squares = total(around.centred**2, member)  # SS_k
  freedom = total(1 / n - 1 / parent_n, member)  # f_k
  reach = total(1 - n / parent_n, member)  # c_k
  shares = []
  below = mean_square = jnp.zeros_like(rows.returns)  # f_{k+1}, SS_{k+1} / it
  for k in reversed(range(len(n))):
    noise = jnp.where(below > 0, mean_square, inside[k])  # sigma_k^2
    excess = jnp.maximum(squares[k] - freedom[k] * noise, 0)
    signal = _ratio(excess, reach[k]) * n[k]  # tau_k^2 n_k
    share = _ratio(signal, signal + noise)
    shares.append(jnp.where(levels.spread[k + 1], share, 0))
    below, mean_square = freedom[k], _ratio(squares[k], freedom[k])
  return shares[::-1]


def _task_total(rows: Rows, values: jax.Array, member: jax.Array) -> jax.Array:
  """Sum of the members' values in each row's task, all `[N]`."""
  place = jnp.where(rows.mask, rows.task, 0)
  values = jnp.where(member, values, 0)
  return jax.ops.segment_sum(values, place, place.size)[place]


def _ratio(above: jax.Array, below: jax.Array) -> jax.Array:
  """Returns above / below, and 0 where there is nothing below."""
  return jnp.where(below > 0, above / jnp.where(below > 0, below, 1), 0)


def _scaled(
  advantages: jax.Array,
  rows: Rows,
  levels: segments.Moments,
  normalisation: segments.Normalisation,
  eps: float,
) -> jax.Array:
  """Divides by the task's spread of returns inside states, where wanted."""
  if normalisation == 'mean':
    return advantages
  if normalisation != 'mean_std':
    raise ValueError(
      f"Got normalisation={normalisation!r}, expected 'mean' or 'mean_std'."
    )
  variance = _ratio(
    _task_total(rows, levels.centred[0] ** 2, rows.mask),
    _task_total(rows, 1 - 1 / jnp.maximum(levels.count[0], 1), rows.mask),
  )
  spread = variance > 0
  # The root of a stand-in where there is no spread: its slope at 0 is inf.
  scale = jnp.sqrt(jnp.where(spread, variance, 1)) + eps
  return jnp.where(spread, advantages / scale, 0)
