"""What tests and benchmarks share: random data and slow, obvious references.

The references are NumPy and dictionaries in float64, a loop per group, written
from the formulas; the library's own code is not used in them.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hgpo_jax import types
from hgpo_jax.advantages.rows import Rows
from hgpo_jax.policy import qwen2, scoring


def random_params(
  config: qwen2.Config, *, seed: int = 0, std: float = 0.2
) -> qwen2.Params:
  """Params of a small model, drawn on the host: nothing is compiled.

  Args:
    config: the model's size.
    seed: of everything.
    std: of every number; of the norms' around 1, where it is halved. Large
      enough that logits differ.
  """
  rng = np.random.default_rng(seed)

  def draw(path: Any, leaf: Any) -> jax.Array:
    norm = 'scale' in jax.tree_util.keystr(path)
    values = (
      rng.normal(1, std / 2, leaf.shape)
      if norm
      else rng.normal(0, std, leaf.shape)
    )
    return jnp.asarray(values.astype(leaf.dtype))

  shapes = jax.eval_shape(lambda: qwen2.init_params(config, jax.random.key(0)))
  return jax.tree_util.tree_map_with_path(draw, shapes)


def bigram_score(params: Any, rows: types.Packed) -> scoring.Scores:
  """A bigram model, which compiles fast: policy enough for the learner.

  Args:
    params: `table [V, V]` and `bias [V]`, logits of what follows a token.
    rows: packed turns; no reply is limited.
  """
  before = jnp.take_along_axis(rows.tokens, rows.at, axis=1)
  log_probs = jax.nn.log_softmax(params['table'][before] + params['bias'])
  real = rows.targets >= 0
  target = jnp.maximum(rows.targets, 0)[..., None]
  chosen = jnp.take_along_axis(log_probs, target, axis=-1)[..., 0]
  entropy = -(jnp.exp(log_probs) * log_probs).sum(-1)
  return scoring.Scores(
    log_probs=jnp.where(real, chosen, 0), entropy=jnp.where(real, entropy, 0)
  )


def bigram_params(vocab_size: int, seed: int = 0) -> dict[str, jax.Array]:
  """Random params for `bigram_score`."""
  table = np.random.default_rng(seed).normal(size=(vocab_size, vocab_size))
  return {
    'table': jnp.asarray(table, jnp.float32),
    'bias': jnp.zeros(vocab_size),
  }


def random_trajectories(
  seed: int,
  *,
  groups: int = 3,
  episodes: int = 4,
  steps: int = 6,
  min_steps: int = 1,
  observations: int = 5,
  padding: int = 0,
) -> Rows:
  """Shuffled rows of episodes that often share states and histories.

  Episodes of a group follow one path through the states and leave it now and
  then. Returns are those of a last reward in {0, 1} or uniform, discounted by
  0.95, with 0.1 off a tenth of the rows; the first group's are all equal.

  Args:
    seed: of everything.
    groups: tasks.
    episodes: trajectories per task.
    steps, min_steps: longest and shortest episode, in turns.
    observations: distinct states.
    padding: masked rows, filled with numbers that must not matter.

  Returns: N = turns + padding rows, as NumPy arrays in the record's fields.
  """
  rng = np.random.default_rng(seed)
  fields: dict[str, list[float]] = collections.defaultdict(list)
  for task in range(groups):
    path = rng.integers(observations, size=steps)
    for episode in range(episodes):
      length = int(rng.integers(min_steps, steps + 1))
      outcome = rng.choice([0.0, 1.0, rng.uniform()]) if task else 1.0
      for turn in range(length):
        leaves = rng.uniform() < 0.15
        fine = 0.1 if task and rng.uniform() < 0.1 else 0.0
        fields['task'].append(task)
        fields['traj'].append(task * episodes + episode)
        fields['turn'].append(turn)
        obs = rng.integers(observations) if leaves else path[turn]
        fields['obs'].append(int(obs))
        fields['act'].append(int(leaves))
        fields['episode_return'].append(outcome - fine)
        discount = 0.95 ** (length - 1 - turn) if task else 1.0
        fields['returns'].append(outcome * discount - fine)
        fields['mask'].append(True)
  for name, column in fields.items():
    column.extend(rng.integers(0, 2, padding) * (name != 'mask'))
  order = rng.permutation(len(fields['mask']))
  dtypes = {'episode_return': np.float32, 'returns': np.float32, 'mask': bool}
  columns: dict[str, Any] = {
    name: np.asarray(column, dtypes.get(name, np.int32))[order]
    for name, column in fields.items()
  }
  return Rows(**columns)


def level_keys(rows: Rows, *, depth: int) -> list[list[Hashable | None]]:
  """The key of each row's group on levels 0..depth; None where it has none."""
  task, traj, turn, obs = (
    np.asarray(x).tolist() for x in (rows.task, rows.traj, rows.turn, rows.obs)
  )
  real = np.flatnonzero(rows.mask).tolist()
  seen = {(traj[n], turn[n]): obs[n] for n in real}
  levels: list[list[Hashable | None]] = []
  for k in range(depth + 1):
    keys: list[Hashable | None] = [None] * len(task)
    for n in real:
      past = tuple(seen.get((traj[n], turn[n] - j)) for j in range(k + 1))
      if None not in past:
        keys[n] = (task[n], *past)
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
  for k, keys in enumerate(level_keys(rows, depth=depth)):
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
  ddof = {'sample': 1, 'population': 0}[std]

  def judge(own: np.ndarray, x: np.ndarray) -> np.ndarray:
    scale = x.std(ddof=ddof) + eps if normalisation == 'mean_std' else 1.0
    return (own - x.mean()) / scale

  return _by_task(rows, judge, count, singleton)


def reference_rloo(
  rows: Rows, *, count: str = 'trajectories', singleton: str = 'zero'
) -> np.ndarray:
  """RLOO's advantages `[N]` by a loop over tasks; see `episode.rloo`."""

  def judge(own: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (own - x.mean()) * len(x) / (len(x) - 1)

  return _by_task(rows, judge, count, singleton)


REFERENCES: dict[str, Callable[..., np.ndarray]] = {
  'grpo': reference_grpo,
  'rloo': reference_rloo,
  'gigpo': reference_gigpo,
  'hgpo': reference_hgpo,
}


def as_jax(rows: Rows) -> Rows:
  """The same rows on the device."""
  return Rows(
    **{n: jnp.asarray(x) for n, x in vars(rows).items() if x is not None}
  )


def _task_keys(rows: Rows) -> list[Hashable | None]:
  return [
    int(task) if real else None
    for task, real in zip(rows.task, rows.mask, strict=True)
  ]


def _by_task(
  rows: Rows,
  judge: Callable[[np.ndarray, np.ndarray], np.ndarray],
  count: str,
  singleton: str,
) -> np.ndarray:
  """Applies `judge(own [M], counted)` to the rows of each task in turn."""
  scores = np.asarray(rows.episode_return, np.float64)
  advantages = np.zeros(len(scores))
  for task in {key for key in _task_keys(rows) if key is not None}:
    members = np.flatnonzero((rows.task == task) & rows.mask)
    counted = scores[members]
    if count == 'trajectories':
      first: dict[int, tuple[int, float]] = {}
      for n in members:
        turn, traj = int(rows.turn[n]), int(rows.traj[n])
        if traj not in first or turn < first[traj][0]:
          first[traj] = (turn, scores[n])
      counted = np.array([score for _, score in first.values()])
    if counted.max() > counted.min():
      advantages[members] = judge(scores[members], counted)
    elif len(counted) == 1 and singleton == 'raw':
      advantages[members] = scores[members]
  return advantages
