"""State groups: which rows saw the same, and did so with the same history."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Sequence
from typing import Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np

from hgpo_jax.advantages import segments
from hgpo_jax.advantages.rows import Rows, assert_shapes

Contexts = Literal['states', 'states_actions']


def context_ids(
  rows: Rows, *, depth: int, contexts: Contexts = 'states'
) -> jax.Array:
  """Groups the batch by contexts of k = 0..depth earlier turns.

  Args:
    rows: the batch.
    depth: K, earlier turns in the deepest context; static.
    contexts: 'states' compares observations, as HGPO's groups do; with
      'states_actions' the actions between them must be equal too.

  Returns: `[K+1, N]` int32, as from `level_ids`.

  Raises:
    ValueError: the contexts have another name, or the depth is negative.
  """
  assert_shapes(rows)
  if depth < 0:
    raise ValueError(f'Got depth={depth}, expected at least 0 earlier turns.')
  if contexts not in ('states', 'states_actions'):
    raise ValueError(
      f"Got contexts={contexts!r}, expected 'states' or 'states_actions'."
    )
  return level_ids(
    rows.task,
    rows.traj,
    rows.turn,
    rows.obs,
    rows.mask,
    act=rows.act if contexts == 'states_actions' else None,
    depth=depth,
  )


def level_ids(
  task: jax.Array,
  traj: jax.Array,
  turn: jax.Array,
  obs: jax.Array,
  mask: jax.Array,
  *,
  depth: int,
  act: jax.Array | None = None,
) -> jax.Array:
  """Groups rows by their last k + 1 observations, for k = 0..depth.

  Level k joins the rows of one task with equal (o_t, o_{t-1}, ..., o_{t-k}), or
  (o_t, a_{t-1}, o_{t-1}, ..., a_{t-k}, o_{t-k}) where actions are given. Rows
  of the same episode count as members when it comes back to a state. One
  lexicographic sort serves all levels, since each level's key is a prefix of
  the next one's. See HGPO (https://arxiv.org/abs/2602.22817), whose released
  code numbers the levels from 1.

  Args:
    task: `[N]`, as in `Rows`; rows in any order.
    traj: `[N]`, as in `Rows`.
    turn: `[N]`, as in `Rows`.
    obs: `[N]`, as in `Rows`.
    mask: `[N]`, as in `Rows`.
    depth: K, the number of earlier observations in the deepest key; static.
    act: `[N]` as in `Rows`, to join the keys; or None.

  Returns: `[K+1, N]` int32, dense in [0, groups) on each level; -1 on padding
    and where t - k < 0, or that earlier turn is not among the rows.
  """
  chex.assert_shape([task, traj, turn, obs, mask], (mask.size,))
  owner = jnp.where(mask, task, -1)[None].astype(jnp.int32)
  past = history(traj, turn, obs, mask, depth=depth)  # [K+1, N]
  if act is None:
    return segments.prefix_ids(jnp.concatenate([owner, past]))[1:]
  acts = history(traj, turn, act, mask, depth=depth)  # [K+1, N]
  steps = jnp.stack([acts[1:], past[1:]], axis=1).reshape(2 * depth, mask.size)
  key = jnp.concatenate([owner, past[:1], steps])  # [2K+2, N]
  return segments.prefix_ids(key)[1::2]


def history(
  traj: jax.Array,
  turn: jax.Array,
  obs: jax.Array,
  mask: jax.Array,
  *,
  depth: int,
) -> jax.Array:
  """The observations k turns ago, `[K+1, N]` int32; -1 where there is none."""
  chex.assert_shape([traj, turn, obs, mask], (mask.size,))
  size = mask.shape[0]
  order = segments.episode_order(traj, turn, mask)
  traj, turn, obs, mask = (x[order] for x in (traj, turn, obs, mask))
  place = jnp.arange(size)
  levels = []
  for k in range(depth + 1):
    earlier = jnp.maximum(place - k, 0)
    linked = mask & mask[earlier] & (traj[earlier] == traj)
    linked &= turn[earlier] == turn - k  # fails at the start and across a gap
    levels.append(jnp.where(linked, obs[earlier], -1))
  ordered = jnp.stack(levels).astype(jnp.int32)
  return jnp.zeros_like(ordered).at[:, order].set(ordered)


def following(
  traj: jax.Array, turn: jax.Array, obs: jax.Array, mask: jax.Array
) -> jax.Array:
  """The observation one turn later, `[N]` int32; -1 after the last turn."""
  chex.assert_shape([traj, turn, obs, mask], (mask.size,))
  order = segments.episode_order(traj, turn, mask)
  later = jnp.roll(order, -1)  # the row that follows each row of the order
  linked = mask[order] & mask[later] & (traj[later] == traj[order])
  linked &= turn[later] == turn[order] + 1  # fails where the order starts again
  ordered = jnp.where(linked, obs[later], -1).astype(jnp.int32)
  return jnp.zeros_like(ordered).at[order].set(ordered)


def first_of_trajectory(
  traj: jax.Array, turn: jax.Array, mask: jax.Array
) -> jax.Array:
  """Marks one row per episode, that of its earliest turn: `[N]` bool."""
  chex.assert_shape([traj, turn, mask], (mask.size,))
  size = mask.shape[0]
  place = jnp.where(mask, traj, 0)
  last = jnp.iinfo(jnp.int32).max
  earliest = jax.ops.segment_min(jnp.where(mask, turn, last), place, size)
  return mask & (turn == earliest[place])


def similar_ids(
  texts: Sequence[str], task: Sequence[Hashable], threshold: float = 0.95
) -> np.ndarray:
  """Numbers the observations of each task, similar ones alike.

  Greedy: a text joins the first cluster of its task, in the order in which they
  were founded, whose founder it resembles by
  `difflib.SequenceMatcher(None, founder, text).ratio() >= threshold`; else it
  founds one. Similarity is not transitive, so the order of the texts matters.
  The ratio is that of difflib's defaults, which pass over frequent characters
  of texts of 200 characters and more. GiGPO, Feng et al. 2025
  (https://arxiv.org/abs/2505.10978), whose released code has 0.95.

  Args:
    texts: N observations.
    task: N tasks; texts of different tasks never share a cluster.
    threshold: in (0, 1]; 1 joins equal texts only.

  Returns: `[N]` int32, numbered within the task, to stand in `Rows.obs`.

  Raises:
    ValueError: the threshold is out of range.
  """
  if not 0 < threshold <= 1:
    raise ValueError(
      f'Got threshold={threshold}, expected one in (0, 1]; 1 is exact equality.'
    )
  founders: dict[Hashable, list[tuple[str, int]]] = {}
  known: dict[tuple[Hashable, str], int] = {}  # each distinct text is met once
  for place in zip(task, texts, strict=True):
    if place in known:
      continue
    owner, text = place
    mates = founders.setdefault(owner, [])
    number = None if threshold == 1 else _first_similar(mates, text, threshold)
    if number is None:
      number = len(mates)
      mates.append((text, number))
    known[place] = number
  return np.fromiter(
    (known[place] for place in zip(task, texts, strict=True)), np.int32
  )


def _first_similar(
  founders: Sequence[tuple[str, int]], text: str, threshold: float
) -> int | None:
  """Number of the first founder that the text resembles, None without one."""
  matcher = difflib.SequenceMatcher(b=text)  # b is analysed once
  for founder, number in founders:
    matcher.set_seq1(founder)
    # The first two are upper bounds, and cheap.
    bounds = matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio
    if all(bound() >= threshold for bound in bounds):
      return number
  return None
