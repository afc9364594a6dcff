"""The slow, obvious references that tests and benchmarks compare with.

NumPy and dictionaries in float64, a loop per group, written from the formulas;
the library's own code is not used in them. `REFERENCES` has one for every name
in `hgpo_jax.advantages.ESTIMATORS`, with the same options.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np

from hgpo_jax.advantages.rows import Rows

_DDOF = {'sample': 1, 'population': 0}


def reference_grpo(
  rows: Rows,
  *,
  normalisation: str = 'mean_std',
  std: str = 'sample',
  count: str = 'rows',
  singleton: str = 'zero',
  eps: float = 1e-6,
) -> np.ndarray:
  """GRPO's advantages `[N]` by a loop over tasks; see `episode.grpo`."""

  def judge(own: np.ndarray, x: np.ndarray) -> np.ndarray:
    scale = x.std(ddof=_DDOF[std]) + eps if normalisation == 'mean_std' else 1.0
    return (own - x.mean()) / scale

  return _by_task(rows, judge, count, singleton)


def reference_dr_grpo(
  rows: Rows, *, count: str = 'trajectories', singleton: str = 'zero'
) -> np.ndarray:
  """Dr. GRPO's advantages `[N]`; see `episode.dr_grpo`."""
  return _by_task(rows, lambda own, x: own - x.mean(), count, singleton)


def reference_rloo(
  rows: Rows, *, count: str = 'trajectories', singleton: str = 'zero'
) -> np.ndarray:
  """RLOO's advantages `[N]` by a loop over tasks; see `episode.rloo`."""

  def judge(own: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (own - x.mean()) * len(x) / (len(x) - 1)

  return _by_task(rows, judge, count, singleton)


def reference_dr_mas(
  rows: Rows,
  *,
  count: str = 'rows',
  std: str = 'sample',
  eps: float = 1e-6,
) -> np.ndarray:
  """Dr. MAS's advantages `[N]`, agent after agent; see `episode.dr_mas`."""
  assert rows.agent is not None
  advantages = np.zeros(len(rows.mask))
  for agent in set(np.asarray(rows.agent).tolist()):
    own = dataclasses.replace(rows, mask=rows.mask & (rows.agent == agent))
    advantages += reference_grpo(own, count=count, std=std, eps=eps)
  return advantages


def reference_reinforce_pp(
  rows: Rows, *, std: str = 'sample', eps: float = 1e-8
) -> np.ndarray:
  """REINFORCE++'s advantages `[N]`; see `batchwise.reinforce_pp`."""
  x = np.asarray(rows.returns, np.float64)
  real = x[rows.mask]
  white = (x - real.mean()) / np.sqrt(real.var(ddof=_DDOF[std]) + eps)
  return np.where(rows.mask, white, 0)


def reference_reinforce_pp_baseline(
  rows: Rows, *, std: str = 'sample', count: str = 'rows', eps: float = 1e-8
) -> np.ndarray:
  """Its advantages `[N]`; see `batchwise.reinforce_pp_baseline`."""
  x = reference_dr_grpo(rows, count=count)
  counted = x[_counted(rows, count)]
  white = (x - counted.mean()) / np.sqrt(counted.var(ddof=_DDOF[std]) + eps)
  return np.where(rows.mask, white, 0)


def reference_lite_ppo(
  rows: Rows,
  *,
  std: str = 'sample',
  count: str = 'trajectories',
  eps: float = 1e-6,
) -> np.ndarray:
  """Lite PPO's advantages `[N]`; see `batchwise.lite_ppo`."""
  scores = np.asarray(rows.episode_return, np.float64)
  scale = scores[_counted(rows, count)].std(ddof=_DDOF[std]) + eps
  return reference_dr_grpo(rows, count=count) / scale


def reference_gdpo(
  rows: Rows,
  *,
  weights: tuple[float, ...] = (),
  std: str = 'sample',
  count: str = 'trajectories',
  eps: float = 1e-6,
) -> np.ndarray:
  """GDPO's advantages `[N]`, score after score; see `batchwise.gdpo`."""
  scores: Any = np.asarray(rows.scores)
  x = np.zeros(len(scores))
  for c, weight in enumerate(weights or [1.0] * scores.shape[1]):
    own = dataclasses.replace(rows, episode_return=scores[:, c])
    x += weight * reference_grpo(own, std=std, count=count, eps=eps)
  counted = x[_counted(rows, count)]
  scaled = (x - counted.mean()) / (counted.std(ddof=_DDOF[std]) + eps)
  return np.where(rows.mask, scaled, 0)


def reference_ngrpo(
  rows: Rows,
  *,
  max_return: float = 10.0,
  std: str = 'sample',
  count: str = 'trajectories',
  eps: float = 1e-6,
) -> np.ndarray:
  """NGRPO's advantages `[N]`; see `robust.ngrpo`."""

  def judge(own: np.ndarray, x: np.ndarray) -> np.ndarray:
    x = np.append(x, max_return)
    return (own - x.mean()) / (x.std(ddof=_DDOF[std]) + eps)

  return _by_task(rows, judge, count, flat=judge)


def reference_mc_grpo(
  rows: Rows,
  *,
  rescale: bool = False,
  limit: float = 10.0,
  count: str = 'trajectories',
  eps: float = 1e-3,
) -> np.ndarray:
  """MC-GRPO's advantages `[N]`; see `robust.mc_grpo`."""

  def median(x: np.ndarray) -> float:
    return sorted(x.tolist())[(len(x) - 1) // 2]

  def judge(own: np.ndarray, x: np.ndarray) -> np.ndarray:
    centre = median(x)
    scaled = (own - centre) / (median(np.abs(x - centre)) + eps)
    if rescale:
      scaled *= len(x) / np.count_nonzero(x != centre)
    return np.clip(scaled, -limit, limit)

  return _by_task(rows, judge, count)


def reference_bnpo(
  rows: Rows,
  *,
  max_return: float = 10.0,
  limit: float = 1e6,
  count: str = 'trajectories',
) -> np.ndarray:
  """BNPO's advantages `[N]`; see `difficulty.bnpo`."""
  rows = _unit(rows, max_return)
  r = np.asarray(rows.episode_return)
  rates = {task: r[counted].mean() for task, _, counted in _tasks(rows, count)}
  flat = {task for task, _, x in _tasks(rows, count) if np.ptp(r[x]) == 0}
  p = np.array(list(rates.values()))
  alpha = beta = 1.0
  if p.max() > p.min():
    m, v = p.mean(), p.var(ddof=1)
    alpha = max(1, 1 + (m * (1 - m) / v - 1) * m / 3)
    beta = max(1, 1 + (m * (1 - m) / v - 1) * (1 - m) / 3)
  log_norm = math.lgamma(alpha) + math.lgamma(beta) - math.lgamma(alpha + beta)
  advantages = np.zeros(len(r))
  for task, members, _ in _tasks(rows, count):
    q = rates[task]
    if task not in flat and 0 < q < 1:
      density = q ** (alpha - 1) * (1 - q) ** (beta - 1) / math.exp(log_norm)
      advantages[members] = (r[members] - q) * min(1 / density, limit)
  return advantages


def reference_a_grae(
  rows: Rows,
  *,
  alpha: float = 1.0,
  max_return: float = 10.0,
  std: str = 'sample',
  count: str = 'trajectories',
  eps: float = 1e-6,
) -> np.ndarray:
  """A-GRAE's advantages `[N]`; see `difficulty.a_grae`."""
  rows = _unit(rows, max_return)
  r = np.asarray(rows.episode_return)
  omega = r[_counted(rows, count)].mean()
  of_grpo = reference_grpo(rows, std=std, count=count, eps=eps)
  advantages = np.zeros(len(r))
  for _, members, counted in _tasks(rows, count):
    p = r[counted].mean()
    if 0 < p < 1:
      easy, hard = omega / np.sqrt(p), (1 - omega) / np.sqrt(1 - p)
      advantages[members] = 0.5 * (easy + hard) * of_grpo[members]
  damping = min(1, omega / alpha)
  return np.where(advantages > 0, damping * advantages, advantages)


def reference_copo(
  rows: Rows,
  *,
  gain: float = 5.0,
  offset: float = 1.0,
  weighting: str = 'soft',
  std: str = 'sample',
  count: str = 'trajectories',
  eps: float = 1e-6,
) -> np.ndarray:
  """COPO's mixed advantages `[N]`; see `difficulty.copo`."""
  scores = np.asarray(rows.episode_return, np.float64)
  outcome = np.asarray(rows.outcome)
  local = reference_grpo(rows, std=std, count=count, eps=eps)
  means = [scores[counted].mean() for _, _, counted in _tasks(rows, count)]
  advantages = np.zeros(len(scores))
  for mean, (_, members, counted) in zip(
    means, _tasks(rows, count), strict=True
  ):
    across = 0.0
    if max(means) > min(means):
      across = (mean - np.mean(means)) / (np.std(means, ddof=_DDOF[std]) + eps)
    sizes = collections.Counter(outcome[counted].tolist()).values()
    shares = [size / sum(sizes) for size in sizes]
    entropy = -sum(p * math.log2(p) for p in shares)
    for n in members:
      w = 1 / (1 + math.exp(-gain * (entropy - offset)))
      if weighting == 'soft_with_zero' and scores[n] == 0:
        w = 0.0
      advantages[n] = w * local[n] + (1 - w) * across
  return advantages


def _counted(rows: Rows, count: str) -> np.ndarray:
  """The positions of the rows that make the statistics."""
  real = np.flatnonzero(rows.mask)
  if count == 'rows':
    return real
  first: dict[int, int] = {}
  for n in real.tolist():
    traj = int(rows.traj[n])
    if traj not in first or rows.turn[n] < rows.turn[first[traj]]:
      first[traj] = n
  return np.array(sorted(first.values()))


def _tasks(
  rows: Rows, count: str
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
  """Yields each task, the positions of its rows, and of those that count."""
  task, counted = np.asarray(rows.task), _counted(rows, count)
  for name in sorted(set(task[rows.mask].tolist())):
    members = np.flatnonzero((task == name) & rows.mask)
    yield name, members, counted[task[counted] == name]


def _unit(rows: Rows, max_return: float) -> Rows:
  scores: Any = np.asarray(rows.episode_return, np.float64) / max_return
  return dataclasses.replace(rows, episode_return=np.clip(scores, 0, 1))


def _by_task(
  rows: Rows,
  judge: Callable[[np.ndarray, np.ndarray], np.ndarray],
  count: str,
  singleton: str = 'zero',
  flat: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
  """Applies `judge(own [M], counted)` to the rows of each task in turn.

  A task without spread is left to `flat`; without that it gets 0, or what the
  singleton rule says.
  """
  scores = np.asarray(rows.episode_return, np.float64)
  advantages = np.zeros(len(scores))
  for _, members, counted in _tasks(rows, count):
    x = scores[counted]
    if x.max() > x.min():
      advantages[members] = judge(scores[members], x)
    elif flat:
      advantages[members] = flat(scores[members], x)
    elif len(x) == 1 and singleton == 'raw':
      advantages[members] = scores[members]
  return advantages


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
  of_episode = reference_grpo(
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
  of_episode = reference_grpo(
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
  of_episode = reference_grpo(
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
  'grpo': reference_grpo,
  'dr_grpo': reference_dr_grpo,
  'rloo': reference_rloo,
  'dr_mas': reference_dr_mas,
  'reinforce_pp': reference_reinforce_pp,
  'reinforce_pp_baseline': reference_reinforce_pp_baseline,
  'lite_ppo': reference_lite_ppo,
  'gdpo': reference_gdpo,
  'ngrpo': reference_ngrpo,
  'mc_grpo': reference_mc_grpo,
  'bnpo': reference_bnpo,
  'a_grae': reference_a_grae,
  'copo': reference_copo,
  'gigpo': reference_gigpo,
  'hgpo': reference_hgpo,
  'hgpo_shrink': reference_hgpo_shrink,
  'turn_index': reference_turn_index,
  'salt': reference_salt,
}
