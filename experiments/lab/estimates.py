"""Advantages of the picked steps by every estimator, and their groups."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.cells import Cases
from experiments.lab.play import Rules
from hgpo_jax.advantages import ESTIMATORS, Rows, grouping, segments

# Groups of the largest size that go into one call.
_AT_ONCE = 64


# HGPO's, at alpha = 1.
_VARIANTS: dict[str, dict[str, Any]] = {
  'episode term': {'base_group': True},
  'actions': {'contexts': 'states_actions'},
}


@dataclasses.dataclass(frozen=True)
class Estimator:
  """An estimator with its options, as the tables name it.

  Attributes:
    name: in `ESTIMATORS`.
    form: 'mean' or 'mean_std'.
    variant: 'episode term' for HGPO's extra level, 'actions' for contexts of
      states and actions, or ''.
    options: of the function, as pairs.
  """

  name: str
  form: str
  variant: str = ''
  options: tuple[tuple[str, Any], ...] = ()

  def __call__(self, rows: Rows) -> jax.Array:
    """Advantages `[N]`."""
    return ESTIMATORS[self.name](rows, **dict(self.options))

  @property
  def weighting(self) -> str:
    """HGPO's, or ''."""
    return dict(self.options).get('weighting', '')

  @property
  def alpha(self) -> float | None:
    """HGPO's, or None."""
    return dict(self.options).get('alpha')


def estimators(
  depth: int, alphas: Sequence[float], reward: float
) -> list[Estimator]:
  """The estimators that compare an episode or a turn within its task.

  Those that look at several tasks (whitening over the batch, BNPO, A-GRAE,
  COPO) are left out: here every group of episodes is a batch of its own.

  Args:
    depth: K, of the player's window and of the contexts.
    alphas: HGPO's exponents.
    reward: of a success.
  """

  def estimator(
    name: str, form: str, variant: str = '', **options: Any
  ) -> Estimator:
    return Estimator(name, form, variant, tuple(options.items()))

  listed = [
    estimator('dr_grpo', 'mean'),
    estimator('rloo', 'mean'),
    estimator('ngrpo', 'mean_std', max_return=reward),
    estimator('mc_grpo', 'mean_std', limit=reward),
  ]
  for form in ('mean', 'mean_std'):
    of_form: dict[str, Any] = {'normalisation': form}
    deep = {**of_form, 'depth': depth}
    listed += [
      *(
        estimator(name, form, **of_form)
        for name in ('grpo', 'turn_index', 'salt', 'gigpo')
      ),
      *(
        estimator('hgpo', form, **deep, weighting=weighting, alpha=alpha)
        for weighting in ('released', 'paper')
        for alpha in alphas
      ),
      *(
        estimator(
          'hgpo', form, name, **deep, weighting='released', alpha=1.0, **extra
        )
        for name, extra in _VARIANTS.items()
      ),
      estimator('hgpo_shrink', form, **deep),
    ]
  return listed


class Estimated(NamedTuple):
  """What the estimators make of S picked steps, R times each.

  Attributes:
    advantages: `[P, S, R]` by the P estimators.
    level: `[K+1, S, R]`, return of the step minus the mean of the others in its
      group of level k; 0 without others.
    size: `[K+1, S, R]`, rows in that group; 0 where there is none.
    share_grouped, share_spread: `[K+1]`, of all rows, those in a group of two
      or more, and those in a group with different returns.
    mean_size: `[K+1]`, rows per group.
  """

  advantages: np.ndarray
  level: np.ndarray
  size: np.ndarray
  share_grouped: np.ndarray
  share_spread: np.ndarray
  mean_size: np.ndarray


def estimate(
  cell: Cases, rules: Rules, group_size: int, methods: Sequence[Estimator]
) -> Estimated:
  """Runs the estimators on the first `group_size` episodes of every group."""
  cases, replicates, episodes, _ = cell['obs'].shape
  groups = _AT_ONCE * episodes // group_size  # the same rows for every size
  picked, counts = [], np.zeros(())
  for rows, at in batches(cell, rules, group_size, groups):
    *by_row, of_batch = _estimate(
      rows, depth=rules.depth, methods=tuple(methods)
    )
    picked.append([np.asarray(x)[:, at] for x in by_row])
    counts = counts + np.asarray(of_batch, np.float64)
  advantages, level, size = (
    np.concatenate(parts, axis=1).reshape(-1, cases, replicates)
    for parts in zip(*picked, strict=True)
  )
  total, grouped, spread, members, number = counts
  return Estimated(
    advantages=advantages,
    level=level,
    size=size,
    share_grouped=grouped / total,
    share_spread=spread / total,
    mean_size=members / np.maximum(number, 1),
  )


def batches(
  cell: Cases, rules: Rules, group_size: int, groups: int
) -> Iterator[tuple[Rows, np.ndarray]]:
  """Rows of `groups` groups at a time, and the place of each picked step.

  Every group is a task of its own. Turns after an episode's end, and groups
  that fill up the last batch, are padding, so that all batches have one shape.
  """
  cases, replicates, _, turns = cell['obs'].shape
  total = cases * replicates
  step = np.repeat(cell['turn'], replicates)

  def flat(name: str) -> np.ndarray:
    x = cell[name][:, :, :group_size]
    return x.reshape(total, *x.shape[2:])

  columns = [flat(name) for name in ('obs', 'act', 'length', 'success')]
  for begin in range(0, total, groups):
    at = step[begin : begin + groups]
    fill = [(0, groups - at.size)]
    part = [
      np.pad(x[begin : begin + groups], fill + [(0, 0)] * (x.ndim - 1))
      for x in columns
    ]
    yield (
      _rows(*part, rules=rules),
      np.arange(at.size) * group_size * turns + at,
    )


def _rows(
  obs: np.ndarray,
  act: np.ndarray,
  length: np.ndarray,
  success: np.ndarray,
  *,
  rules: Rules,
) -> Rows:
  """Rows `[groups * G * T]` of `[groups, G, T]` turns, in that order."""
  groups, size, turns = obs.shape
  turn = np.broadcast_to(np.arange(turns), obs.shape)
  mask = turn < length[..., None]
  # One table of powers: equal distances to a success give bit-equal returns.
  powers = (rules.reward * rules.gamma ** np.arange(turns)).astype(np.float32)
  left = np.where(mask, length[..., None] - 1 - turn, 0)
  returns = np.where(mask & success[..., None], powers[left], 0)
  total = np.where(mask & success[..., None], rules.reward, 0)
  task = np.arange(groups)[:, None, None]
  traj = np.arange(groups * size).reshape(groups, size, 1)

  def column(x: np.ndarray, dtype: Any) -> Any:
    return np.broadcast_to(x, obs.shape).astype(dtype).reshape(-1)

  return Rows(
    task=column(task, np.int32),
    traj=column(traj, np.int32),
    turn=column(turn, np.int32),
    obs=column(np.where(mask, obs, 0), np.int32),
    act=column(np.where(mask, act, 0), np.int32),
    episode_return=column(total, np.float32),
    returns=column(returns, np.float32),
    mask=column(mask, bool),
  )


@functools.partial(jax.jit, static_argnames=('depth', 'methods'))
def _estimate(
  rows: Rows, *, depth: int, methods: tuple[Estimator, ...]
) -> tuple[jax.Array, ...]:
  """Advantages, each level's part of them, and counts over all rows.

  In one computation, so that the estimators share the sorting.

  Returns: `[P, N]`, `[K+1, N]`, `[K+1, N]` and `[5, K+1]`; see `Estimated`.
  """
  advantages = jnp.stack([estimator(rows) for estimator in methods])
  ids = grouping.level_ids(
    rows.task, rows.traj, rows.turn, rows.obs, rows.mask, depth=depth
  )
  moments = jax.vmap(segments.group_moments, (None, 0))(rows.returns, ids)
  others = moments.count - 1
  level = jnp.where(
    others > 0, moments.centred * moments.count / jnp.maximum(others, 1), 0
  )
  present = ids >= 0
  counts = jnp.stack(
    [
      jnp.broadcast_to(rows.mask.sum(), depth + 1),
      (present & (moments.count > 1)).sum(1),
      moments.spread.sum(1),
      present.sum(1),
      jnp.max(ids, axis=1) + 1,
    ]
  )
  return advantages, level, moments.count, counts
