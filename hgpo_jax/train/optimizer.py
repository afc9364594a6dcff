"""AdamW as it is used here: clipped, scheduled, with moments of any type."""

from __future__ import annotations

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from hgpo_jax.types import PyTree


def make_optimizer(
  *,
  learning_rate: float,
  warmup_steps: int,
  decay_steps: int,
  weight_decay: float,
  clip_norm: float,
  b1: float,
  b2: float,
  moments_dtype: str = 'float32',
) -> optax.GradientTransformation:
  """AdamW behind a global-norm clip; linear warm-up, then cosine or constant.

  Args:
    learning_rate: the peak.
    warmup_steps: updates below the peak; the first takes 1 / (they + 1) of it.
    decay_steps: updates after these until a cosine reaches a tenth of the
      peak; 0 stays there.
    weight_decay: on matrices; norms' scales and biases are left alone.
    clip_norm: of the whole gradient.
    b1: decay of Adam's first moment.
    b2: decay of Adam's second moment.
    moments_dtype: name of the type in which both of Adam's moments are kept.
  """
  schedule = (
    optax.cosine_decay_schedule(learning_rate, decay_steps, alpha=0.1)
    if decay_steps
    else optax.constant_schedule(learning_rate)
  )
  if warmup_steps:
    start = learning_rate / (warmup_steps + 1)
    rise = optax.linear_schedule(start, learning_rate, warmup_steps)
    schedule = optax.join_schedules([rise, schedule], [warmup_steps])
  adamw = optax.adamw(
    schedule, b1=b1, b2=b2, weight_decay=weight_decay, mask=decay_mask
  )
  return optax.chain(
    optax.clip_by_global_norm(clip_norm), stored_as(moments_dtype, adamw)
  )


def decay_mask(params: PyTree) -> PyTree:
  """True where weight decay applies: everything but norms and biases."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: not re.search('bias|norm', jax.tree_util.keystr(path)),
    params,
  )


class Stored(NamedTuple):
  """State of `stored_as`.

  Attributes:
    updates: `[]` int32, how many were made.
    inner: the wrapped state, its float32 leaves in the smaller type.
  """

  updates: Array
  inner: PyTree


def stored_as(
  dtype: str, inner: optax.GradientTransformation
) -> optax.GradientTransformation:
  """Keeps the state of `inner` as `dtype` between updates, of any params.

  Rounding is stochastic: bfloat16 has 8 bits, so that a second moment which
  moves by (1 - b2) = 0.1 % a step would never move if it went to the nearest.

  Args:
    dtype: 'float32' or 'bfloat16'.
    inner: computes in float32.

  Raises: ValueError for another type.
  """
  if dtype not in ('float32', 'bfloat16'):
    raise ValueError(
      f"moments_dtype={dtype!r}; expected 'float32' or 'bfloat16'."
    )

  def start(params: PyTree) -> PyTree:
    # optax starts moments in the params' type, whatever comes of them later.
    return jax.tree.map(
      lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x,
      inner.init(params),
    )

  if dtype == 'float32':
    return optax.GradientTransformation(start, inner.update)

  def init(params: PyTree) -> Stored:
    return Stored(jnp.zeros((), jnp.int32), start(params))

  def update(
    grads: PyTree, state: Stored, params: PyTree = None
  ) -> tuple[PyTree, Stored]:
    wide = jax.tree.map(
      lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x,
      state.inner,
    )
    updates, wide = inner.update(grads, wide, params)
    leaves, tree = jax.tree.flatten(wide)
    key = jax.random.fold_in(jax.random.key(0), state.updates)
    small = [
      stochastic_round(x, jax.random.fold_in(key, i))
      if x.dtype == jnp.float32
      else x
      for i, x in enumerate(leaves)
    ]
    return updates, Stored(state.updates + 1, jax.tree.unflatten(tree, small))

  return optax.GradientTransformation(init, update)


def stochastic_round(x: Array, key: Array) -> Array:
  """float32 -> bfloat16, up or down at random so that the mean is `x`.

  The lower half of a float32 is what bfloat16 lacks: adding a random lower half
  carries into the upper with the probability that rounding up should have.
  """
  bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
  dice = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
  upper = ((bits + dice) >> 16).astype(jnp.uint16)
  return jax.lax.bitcast_convert_type(upper, jnp.bfloat16)
