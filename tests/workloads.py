"""What tests and benchmarks share: random params, a tiny policy, and rows."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hgpo_jax import types
from hgpo_jax.advantages.rows import Rows
from hgpo_jax.model.interface import Model
from hgpo_jax.sampler import scoring
from hgpo_jax.types import Params


def random_params(model: Model, *, seed: int = 0, std: float = 0.2) -> Params:
  """Params of a small model, drawn on the host: nothing is compiled.

  Args:
    model: a small one.
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

  return jax.tree_util.tree_map_with_path(draw, model.param_shapes())


def bigram_score(params: Any, rows: types.Packed) -> scoring.Scores:
  """A bigram model, which compiles fast: policy enough for the learner.

  Args:
    params: `table [V, V]` and `bias [V]`, logits of what follows a token.
    rows: packed turns; no reply is limited.
  """
  before = jnp.take_along_axis(rows.tokens, rows.at, axis=1)
  logits = params['table'][before] + params['bias'][None, None]
  log_probs = jax.nn.log_softmax(logits)
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


def episodes_of(
  returns: Sequence[float],
  *,
  task: Sequence[int] | None = None,
  lengths: Sequence[int] | None = None,
) -> Rows:
  """Rows of episodes of which just the return matters, for numbers by hand.

  Args:
    returns: of each episode, and of each of its turns.
    task: of each episode; all 0 if None.
    lengths: turns of each episode; 1 if None.
  """
  lengths = lengths or [1] * len(returns)
  traj = np.repeat(np.arange(len(returns)), lengths)
  turn = np.concatenate([np.arange(length) for length in lengths])
  own = np.asarray(returns, np.float32)[traj]
  return Rows(
    task=jnp.asarray(np.asarray(task or [0] * len(returns))[traj], jnp.int32),
    traj=jnp.asarray(traj, jnp.int32),
    turn=jnp.asarray(turn, jnp.int32),
    obs=jnp.asarray(turn, jnp.int32),
    act=jnp.zeros(len(traj), jnp.int32),
    episode_return=jnp.asarray(own),
    returns=jnp.asarray(own),
    mask=jnp.ones(len(traj), bool),
  )


def as_jax(rows: Rows) -> Rows:
  """The same rows on the device."""
  return Rows(
    **{n: jnp.asarray(x) for n, x in vars(rows).items() if x is not None}
  )
