"""HGPO with weights from the data: empirical Bayes over nested contexts."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from hgpo_jax.advantages import grouping, segments
from hgpo_jax.advantages.rows import Rows


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
  fewer returns it is made of. HGPO (https://arxiv.org/abs/2602.22817) settles
  this by weights (k + 1)^alpha for all rows alike; here they follow from group
  sizes and measured spreads. Nothing is tuned. The model:

    theta_k = theta_{k-1} + delta_k,  delta_k ~ N(0, tau_k^2),  theta_0 flat,
    ret     = theta_K + noise,

  theta_k the value of the row's context of length k. Let m_k be the mean of n_k
  returns of G_k, with Var(m_k | theta_k) = sigma_k^2 / n_k. Given the parent's
  value, the posterior mean of theta_k weighs m_k against it by their precisions
  (Efron & Morris 1973, https://doi.org/10.1080/01621459.1973.10481350). Top
  down that is

    v_0 = m_0,   v_k = B_k m_k + (1 - B_k) v_{k-1},
    B_k = tau_k^2 / (tau_k^2 + sigma_k^2 / n_k),

  and the advantage has HGPO's form, with weights that sum to 1:

    A = ret - v_K = sum_k w_k (ret - m_k),
    w_k = B_k prod_{j>k} (1 - B_j),   B_0 = 1.

  The recursion is the exact posterior mean if m_k weighs the children of G_k by
  their precisions. The plain mean is used: it is the same where they are
  equally large, and it can leave an episode out.

  **Leaving out.** m_k and n_k leave out the row's whole episode, not just the
  row. Otherwise a baseline would contain the outcome of the action that it
  judges, most of all when an agent walks in circles and its own visits fill the
  group. For the same reason the unit that is counted is an episode, by the mean
  of its returns in the group: visits of one episode are no independent draws.
  With y that mean and n units in all,

    ret - m_k = (ret - y) + (y - mean_k) n / (n - 1),   n_k = n - 1;

  B_k = 0 where no other episode is in G_k.

  **Spreads.** By the method of moments, per task, from a nested analysis of
  variance (Searle 1971, Linear Models, ch. 11): SS_k sums the squared distances
  of the level-k means from their parent's mean, one term per unit, on f_k
  degrees of freedom.

    sigma_k^2 = SS_{k+1} / f_{k+1},
    tau_k^2   = max(0, SS_k - f_k sigma_k^2) / c_k,
    c_k       = sum over units of 1 - n_child / n_parent.

  sigma_k^2 is the next level's mean square rather than the plain variance
  inside G_k: members that share a longer context move together, and in a
  balanced tree just this ratio to n_k is the variance of m_k. Rows without a
  level k are left out of its sums. Where no context of length k splits further
  (f_{k+1} = 0) and on the deepest level, sigma_k^2 is the plain variance of the
  units inside G_k, pooled.

  Args:
    rows: the batch.
    depth: K, earlier turns in the longest context; static.
    contexts: what contexts are made of, see `grouping.context_ids`.
    normalisation: 'mean' as above, in reward units. 'mean_std' divides by the
      task's pooled standard deviation of returns inside states, one number for
      all rows of a task, so that the weights stay those of the model.
    eps: floor of that spread, in reward units.

  Returns: `[N]` float32; exactly 0 on padding, where no other episode came to
    the row's state, and in a task whose states show no spread.
  Raises:
    ValueError: an option has an unknown name.
  """
  # An episode's visits to a context are the context groups of the episode.
  visits = dataclasses.replace(rows, task=rows.traj)
  groups, cells = (
    grouping.context_ids(x, depth=depth, contexts=contexts)
    for x in (rows, visits)
  )  # [K+1, N] each
  levels = lax.map(lambda ids: _level(rows, *ids), (groups, cells))
  shares = _shares(rows, levels, groups)  # [K, N]
  advantages = levels.ahead[0]
  for share, ahead in zip(shares, levels.ahead[1:], strict=True):
    advantages += share * (ahead - advantages)
  return _scaled(advantages, rows, groups[0], normalisation, eps)


@struct.dataclass
class _Levels:
  """What each row knows about its group on a level; all `[N]`.

  Attributes:
    unit: bool, marks one row for each episode in a group.
    size: n, episodes in the group.
    mean: of their values, each the mean return of its visits.
    centred: the row's episode's value minus that mean.
    ahead: the row's return minus the mean of the other episodes; 0 without any.
  """

  unit: jax.Array
  size: jax.Array
  mean: jax.Array
  centred: jax.Array
  ahead: jax.Array


def _level(rows: Rows, group: jax.Array, cell: jax.Array) -> _Levels:
  """One level, from the ids `[N]` of groups and of episodes in groups."""
  unit = grouping.first_of_trajectory(cell, rows.turn, group >= 0)
  own = segments.group_moments(rows.returns, cell)
  units = segments.group_moments(own.mean, group, unit)
  n = units.count
  ahead = own.centred + units.centred * n / jnp.maximum(n - 1, 1)
  return _Levels(
    unit=unit,
    size=n,
    mean=units.mean,
    centred=units.centred,
    ahead=jnp.where(n > 1, ahead, 0),
  )


def _shares(rows: Rows, levels: _Levels, groups: jax.Array) -> jax.Array:
  """B_k `[K, N]` for k = 1..K, found from the deepest level upwards."""
  units, n = levels.unit[1:], jnp.maximum(levels.size[1:], 1)  # [K, N]
  around = jax.vmap(segments.group_moments)(levels.mean[1:], groups[:-1], units)
  parent_n = jnp.maximum(around.count, 1)
  total = jax.vmap(functools.partial(_task_total, rows))
  inside = _ratio(
    total(levels.centred[1:] ** 2, units), total(1 - 1 / n, units)
  )
  squares = total(around.centred**2, units)  # SS_k
  freedom = total(1 / n - 1 / parent_n, units)  # f_k
  reach = total(1 - n / parent_n, units)  # c_k
  shares = []
  noise = jnp.zeros_like(rows.returns)
  below = jnp.zeros_like(rows.returns)  # f_{K+1}
  for k in reversed(range(len(units))):
    noise = jnp.where(below > 0, noise, inside[k])  # sigma_k^2
    excess = jnp.maximum(squares[k] - freedom[k] * noise, 0)
    weight = _ratio(excess, reach[k]) * (n[k] - 1)
    shares.append(_ratio(weight, weight + noise))
    noise, below = _ratio(squares[k], freedom[k]), freedom[k]
  return jnp.stack(shares[::-1]) if shares else jnp.zeros_like(n)


def _task_total(rows: Rows, values: jax.Array, units: jax.Array) -> jax.Array:
  """Sum of the values at the units of each row's task, all `[N]`."""
  place = jnp.where(rows.mask, rows.task, 0)
  values = jnp.where(units, values, 0)
  return jax.ops.segment_sum(values, place, place.size)[place]


def _ratio(above: jax.Array, below: jax.Array) -> jax.Array:
  """above / below, and 0 where there is nothing below."""
  return jnp.where(below > 0, above / jnp.where(below > 0, below, 1), 0)


def _scaled(
  advantages: jax.Array,
  rows: Rows,
  states: jax.Array,
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
  inside = segments.group_moments(rows.returns, states)
  variance = _ratio(
    _task_total(rows, inside.centred**2, rows.mask),
    _task_total(rows, 1 - 1 / jnp.maximum(inside.count, 1), rows.mask),
  )
  spread = variance > 0
  # The root of a stand-in where there is no spread: its slope at 0 is inf.
  scale = jnp.sqrt(jnp.where(spread, variance, 1)) + eps
  return jnp.where(spread, advantages / scale, 0)
