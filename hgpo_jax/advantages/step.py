"""Step-level estimators: a turn is judged among turns from the same state."""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from hgpo_jax.advantages import episode, grouping, segments
from hgpo_jax.advantages.rows import Rows, assert_shapes

Weighting = Literal['paper', 'released']

# Added to the level k = 0..K (k earlier observations) before the power alpha.
_OFFSET: dict[str, int] = {'paper': 1, 'released': 2}


def gigpo(
  rows: Rows,
  *,
  weight: float = 1.0,
  normalisation: segments.Normalisation = 'mean_std',
  count: episode.Count = 'rows',
  eps: float = 1e-6,
) -> jax.Array:
  """Adds to the episode's advantage that of the turn among equal states.

    A = A_E + weight A_S

  A_E compares episode returns within the task, A_S discounted returns within
  the rows of the task that saw the same observation; both with the sample
  standard deviation if at all. GiGPO, Feng et al. 2025
  (https://arxiv.org/abs/2505.10978). Its grouping of similar states is this
  function on observation ids from `grouping.similar_ids`.

  Args:
    rows: the batch.
    weight: of the step term.
    normalisation: 'mean' or 'mean_std', of both terms.
    count: which rows make the mean of A_E; see `episode.grpo`.
    eps: floor of the spread, in reward units.

  Returns: `[N]` float32; exactly 0 on padding, and each term exactly 0 in a
    group without spread.
  """
  assert_shapes(rows)
  of_episode = episode.grpo(
    rows, normalisation=normalisation, count=count, eps=eps
  )
  (states,) = grouping.context_ids(rows, depth=0)
  moments = segments.group_moments(rows.returns, states)
  of_step = segments.relative(moments, normalisation, 'sample', eps)
  return of_episode + weight * of_step


def hgpo(
  rows: Rows,
  *,
  depth: int = 2,
  contexts: grouping.Contexts = 'states',
  alpha: float = 1.0,
  weighting: Weighting = 'released',
  normalisation: segments.Normalisation = 'mean_std',
  skip_zero: bool = False,
  base_group: bool = False,
  eps: float = 1e-6,
) -> jax.Array:
  """Averages a turn's advantage over groups of ever longer shared history.

    A = sum_k w_k a_k / sum_k w_k,   a_k = (ret - mean_k) / (std_k + eps)

  Level k = 0..K groups the rows of a task whose last k + 1 observations are
  equal; std is the population's. The sums run over the levels that count for
  the row: those whose group has members with different returns. HGPO
  (https://arxiv.org/abs/2602.22817). There is no episode term by default.

  Args:
    rows: the batch.
    depth: K, earlier observations in the deepest key; static.
    contexts: 'states' as above; 'states_actions' joins the actions between
      them to the key.
    alpha: 0 weighs all levels alike, more trusts the longer histories.
    weighting: 'released', w_k = (k + 2)^alpha, is the default because the
      reported results were made with the released code, which counts the
      levels from 1 and adds 1. 'paper' is (k + 1)^alpha, with the same rule for
      levels that do not count, which is our reading of the paper.
    normalisation: 'mean_std' as above (their ALFWorld), 'mean' without the
      denominator (their WebShop).
    skip_zero: also leaves out a level in which this row's own a_k is 0, as the
      released code does. It makes A jump where a row crosses its group's mean,
      and whether a_k is exactly 0 may depend on rounding.
    base_group: adds a level of weight 1 with the episode's advantage, by
      `episode.grpo` with this normalisation.
    eps: floor of the spread, in reward units.

  Departure from the released code: there, rounding in the mean of equal returns
  leaves noise that the division by eps blows up to advantages of order 1; here
  such a group counts for nothing, exactly.

  Returns: `[N]` float32; exactly 0 on padding and where no level counts.

  Raises:
    ValueError: an option has an unknown name.
  """
  assert_shapes(rows)
  if weighting not in _OFFSET:
    raise ValueError(f'Got weighting={weighting!r}, expected {[*_OFFSET]}.')
  levels = grouping.context_ids(
    rows, depth=depth, contexts=contexts
  )  # [K+1, N]
  moments = lax.map(
    functools.partial(segments.group_moments, rows.returns), levels
  )
  values = segments.relative(moments, normalisation, 'population', eps)
  counts = moments.spread
  weights = (jnp.arange(depth + 1.0) + _OFFSET[weighting]) ** alpha
  if base_group:
    base = episode.grpo(rows, normalisation=normalisation, eps=eps)
    spread = episode.task_moments(rows.episode_return, rows, 'rows').spread
    values = jnp.concatenate([base[None], values])
    counts = jnp.concatenate([spread[None], counts])
    weights = jnp.append(1.0, weights)
  if skip_zero:
    counts &= values != 0
  share = jnp.where(counts, weights[:, None], 0)  # [levels, N]
  total = share.sum(0)
  return (share * values).sum(0) / jnp.where(total > 0, total, 1)


def turn_index(
  rows: Rows,
  *,
  normalisation: segments.Normalisation = 'mean_std',
  count: episode.Count = 'trajectories',
  singleton: episode.Singleton = 'zero',
  eps: float = 1e-6,
) -> jax.Array:
  """Averages an episode's advantage and that of the turn among equal turns.

    A = (A_traj + A_turn) / 2

  A_traj compares episode returns within the task, A_turn discounted returns
  within the rows of the task with the same turn index; both with the sample
  standard deviation if at all. The dual level of MatchTIR
  (https://arxiv.org/abs/2601.10712), which takes a discount of 0.9.

  Args:
    rows: the batch.
    normalisation: 'mean' or 'mean_std', of both terms.
    count: which rows make the mean of A_traj; see `episode.grpo`.
    singleton: what a group of one gets, in both terms: 'zero', or 'raw' for its
      own return, as released; the longest episode's last turns often have it.
    eps: floor of the spread, in reward units.

  Returns: `[N]` float32; exactly 0 on padding, and each term exactly 0 in a
    group of several without spread.
  """
  assert_shapes(rows)
  of_episode = episode.grpo(
    rows,
    normalisation=normalisation,
    count=count,
    singleton=singleton,
    eps=eps,
  )
  turns = episode.joined(rows.mask, rows.task, rows.turn)
  moments = segments.group_moments(rows.returns, turns)
  of_turn = segments.relative(moments, normalisation, 'sample', eps)
  if singleton == 'raw':
    of_turn = jnp.where(moments.count == 1, rows.returns, of_turn)
  return (of_episode + of_turn) / 2


def salt(
  rows: Rows,
  *,
  normalisation: segments.Normalisation = 'mean_std',
  count: episode.Count = 'trajectories',
  eps: float = 1e-6,
) -> jax.Array:
  """Gives each step the mean episode advantage of all equal steps.

    A = mean over the rows of the task with equal (o_t, a_t, o_{t+1}) of A_traj

  Steps that good and bad episodes share are neutral; those that set them apart
  keep their sign. After SALT (https://arxiv.org/abs/2510.20022), in the form in
  which later papers restate it.

  The last turn of an episode has no o_{t+1}. It is replaced by an end, which
  two episodes share where their outcomes are equal; without outcomes, where
  their last returns are (the last reward, less the penalty of an invalid
  reply). So a step that won is never one edge with the same step that lost.

  Args:
    rows: the batch; `outcome` is read where there is one.
    normalisation: of A_traj, as in `episode.grpo`. RLOO's is that of 'mean'
      times n / (n - 1).
    count: which rows make the mean of A_traj; see `episode.grpo`.
    eps: floor of the spread, in reward units.

  Returns: `[N]` float32; exactly 0 on padding and in a task without spread.
  """
  assert_shapes(rows)
  of_episode = episode.grpo(
    rows, normalisation=normalisation, count=count, eps=eps
  )
  following = grouping.following(rows.traj, rows.turn, rows.obs, rows.mask)
  end = rows.outcome
  if end is None:
    last = jnp.where(rows.mask, rows.returns, 0)
    end = jnp.searchsorted(jnp.sort(last), last)  # equal returns, equal ids
  ended = following < 0
  target = jnp.where(ended, end, following)
  edges = episode.joined(
    rows.mask, rows.task, rows.obs, rows.act, ended, target
  )
  return segments.group_moments(of_episode, edges).mean
