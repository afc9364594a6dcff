"""The slow, obvious references that tests and benchmarks compare with.

NumPy and dictionaries in float64, a loop per group, written from the formulas;
the library's own code is not used in them. `REFERENCES` has one for every name
in `hgpo_jax.advantages.ESTIMATORS`, with the same options.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable

import numpy as np

from hgpo_jax.advantages.rows import Rows
from tests import episode_references


def level_keys(
  rows: Rows, *, depth: int, contexts: str = 'states'
) -> list[list[Hashable | None]]:
  """The key of each row's group on levels 0..depth; None where it has none."""
  task, traj, turn, obs, act = (
    np.asarray(x).tolist()
    for x in (rows.task, rows.traj, rows.turn, rows.obs, rows.act)
  )
  real = np.flatnonzero(rows.mask).tolist()
  seen = {(traj[n], turn[n]): (obs[n], act[n]) for n in real}
  levels: list[list[Hashable | None]] = []
  for k in range(depth + 1):
    keys: list[Hashable | None] = [None] * len(task)
    for n in real:
      past = [seen.get((traj[n], turn[n] - j)) for j in range(k + 1)]
      if None not in past:
        states, actions = zip(*past, strict=True)
        between = actions[1:] if contexts == 'states_actions' else ()
        keys[n] = (task[n], states, between)
    levels.append(keys)
  return levels


def relative_to_group(
  values: np.ndarray,
  keys: list[Hashable | None],
  *,
  normalisation: str,
  ddof: int,
  eps: float,
) -> tuple[np.ndarray, np.ndarray]:
  """Centred (and scaled) values `[N]`, and which rows' groups have spread."""
  members = collections.defaultdict(list)
  for n, key in enumerate(keys):
    if key is not None:
      members[key].append(n)
  advantages = np.zeros(len(keys))
  spread = np.zeros(len(keys), bool)
  for group in members.values():
    x = values[group].astype(np.float64)
    if x.max() > x.min():
      spread[group] = True
      scale = x.std(ddof=ddof) + eps if normalisation == 'mean_std' else 1.0
      advantages[group] = (x - x.mean()) / scale
  return advantages, spread


def reference_hgpo(
  rows: Rows,
  *,
  depth: int = 2,
  contexts: str = 'states',
  alpha: float = 1.0,
  weighting: str = 'released',
  normalisation: str = 'mean_std',
  skip_zero: bool = False,
  base_group: bool = False,
  eps: float = 1e-6,
) -> np.ndarray:
  """HGPO's advantages `[N]` by dictionaries; see `step.hgpo`."""
  offset = {'paper': 1, 'released': 2}[weighting]
  total, norm = np.zeros(len(rows.mask)), np.zeros(len(rows.mask))
  values = np.asarray(rows.returns)
  parts = []
  for k, keys in enumerate(level_keys(rows, depth=depth, contexts=contexts)):
    part = relative_to_group(
      values, keys, normalisation=normalisation, ddof=0, eps=eps
    )
    parts.append(((k + offset) ** alpha, *part))
  if base_group:
    part = relative_to_group(
      np.asarray(rows.episode_return),
      _task_keys(rows),
      normalisation=normalisation,
      ddof=1,
      eps=eps,
    )
    parts.append((1.0, *part))
  for weight, advantages, counts in parts:
    if skip_zero:
      counts = counts & (advantages != 0)
    total += np.where(counts, weight * advantages, 0)
    norm += np.where(counts, weight, 0)
  return total / np.where(norm > 0, norm, 1)


def reference_gigpo(
  rows: Rows,
  *,
  weight: float = 1.0,
  normalisation: str = 'mean_std',
  count: str = 'rows',
  eps: float = 1e-6,
) -> np.ndarray:
  """GiGPO's advantages `[N]` by dictionaries; see `step.gigpo`."""
  of_step, _ = relative_to_group(
    np.asarray(rows.returns),
    level_keys(rows, depth=0)[0],
    normalisation=normalisation,
    ddof=1,
    eps=eps,
  )
  of_episode = episode_references.reference_grpo(
    rows, normalisation=normalisation, count=count, eps=eps
  )
  return of_episode + weight * of_step


def _task_keys(rows: Rows) -> list[Hashable | None]:
  return [
    int(task) if real else None
    for task, real in zip(rows.task, rows.mask, strict=True)
  ]


def reference_turn_index(
  rows: Rows,
  *,
  normalisation: str = 'mean_std',
  count: str = 'trajectories',
  singleton: str = 'zero',
  eps: float = 1e-6,
) -> np.ndarray:
  """The dual level `[N]` by dictionaries; see `step.turn_index`."""
  keys: list[Hashable | None] = [
    (int(rows.task[n]), int(rows.turn[n])) if rows.mask[n] else None
    for n in range(len(rows.mask))
  ]
  returns = np.asarray(rows.returns)
  of_turn, _ = relative_to_group(
    returns, keys, normalisation=normalisation, ddof=1, eps=eps
  )
  if singleton == 'raw':
    alone = [key is not None and keys.count(key) == 1 for key in keys]
    of_turn = np.where(alone, returns, of_turn)
  of_episode = episode_references.reference_grpo(
    rows,
    normalisation=normalisation,
    count=count,
    singleton=singleton,
    eps=eps,
  )
  return (of_episode + of_turn) / 2


def reference_salt(
  rows: Rows,
  *,
  normalisation: str = 'mean_std',
  count: str = 'trajectories',
  eps: float = 1e-6,
) -> np.ndarray:
  """Edge means `[N]` by dictionaries; see `step.salt`."""
  of_episode = episode_references.reference_grpo(
    rows, normalisation=normalisation, count=count, eps=eps
  )
  real = np.flatnonzero(rows.mask).tolist()
  at = {(int(rows.traj[n]), int(rows.turn[n])): n for n in real}
  edges = collections.defaultdict(list)
  for n in real:
    later = at.get((int(rows.traj[n]), int(rows.turn[n]) + 1))
    ends = rows.returns if rows.outcome is None else rows.outcome
    target = ('end', float(ends[n])) if later is None else int(rows.obs[later])
    step = int(rows.task[n]), int(rows.obs[n]), int(rows.act[n])
    edges[(*step, target)].append(n)
  advantages = np.zeros(len(rows.mask))
  for members in edges.values():
    advantages[members] = of_episode[members].mean()
  return advantages


def reference_hgpo_shrink(
  rows: Rows,
  *,
  depth: int = 2,
  contexts: str = 'states',
  normalisation: str = 'mean_std',
  eps: float = 1e-6,
) -> np.ndarray:
  """The shrunk advantages `[N]` by dictionaries; see `shrink.hgpo_shrink`."""
  levels = level_keys(rows, depth=depth, contexts=contexts)
  advantages = np.zeros(len(rows.mask))
  for task in sorted({int(x) for x in np.asarray(rows.task)[rows.mask]}):
    members = np.flatnonzero((rows.task == task) & rows.mask)
    returns = np.asarray(rows.returns, np.float64)[members]
    keys = [[level[n] for n in members] for level in levels]
    scale = 1.0
    if normalisation == 'mean_std':
      squares, freedom = _within(keys[0], returns)
      scale = np.sqrt(squares / max(freedom, 1)) + eps
    advantages[members] = (returns - _shrunk_baselines(keys, returns)) / scale
  return advantages


def _shrunk_baselines(
  levels: list[list[Hashable | None]], returns: np.ndarray
) -> np.ndarray:
  """v_K of the rows of one task; `levels` are their keys on each level."""
  groups = [_members(keys) for keys in levels]
  tau, sigma = {}, {}
  noise = None
  for k in range(len(levels) - 1, 0, -1):
    if noise is None:  # no level below splits a group of this one
      squares, freedom = _within(levels[k], returns)
      noise = squares / max(freedom, 1)
    parent = dict(zip(levels[k], levels[k - 1], strict=True))
    squares = reach = 0.0
    for p in {parent[g] for g in groups[k]}:
      children = [returns[x] for g, x in groups[k].items() if parent[g] == p]
      pooled = np.concatenate(children)
      for x in children:
        squares += len(x) * (x.mean() - pooled.mean()) ** 2
        reach += len(x) * (1 - len(x) / len(pooled))
    freedom = len(groups[k]) - len({parent[g] for g in groups[k]})
    tau[k] = max(0.0, squares - freedom * noise) / reach if reach else 0.0
    sigma[k] = noise
    noise = squares / freedom if freedom else None
  baselines = np.zeros(len(returns))
  for n in range(len(returns)):
    for k, keys in enumerate(levels):
      x = returns[groups[k].get(keys[n], [])]
      if k == 0:
        baselines[n] = x.mean()
      elif len(x) and x.max() > x.min() and tau[k]:
        share = tau[k] / (tau[k] + sigma[k] / len(x))
        baselines[n] += share * (x.mean() - baselines[n])
  return baselines


def _members(keys: list[Hashable | None]) -> dict[Hashable, list[int]]:
  """The rows of each key."""
  found: dict[Hashable, list[int]] = collections.defaultdict(list)
  for n, key in enumerate(keys):
    if key is not None:
      found[key].append(n)
  return dict(found)


def _within(
  keys: list[Hashable | None], returns: np.ndarray
) -> tuple[float, int]:
  """Squares around the groups' means, and their degrees of freedom."""
  groups = [returns[x] for x in _members(keys).values()]
  squares = sum(float(np.var(x)) * len(x) for x in groups)
  return squares, sum(len(x) - 1 for x in groups)


REFERENCES: dict[str, Callable[..., np.ndarray]] = {
  **episode_references.REFERENCES,
  'gigpo': reference_gigpo,
  'hgpo': reference_hgpo,
  'hgpo_shrink': reference_hgpo_shrink,
  'turn_index': reference_turn_index,
  'salt': reference_salt,
}
