"""A training state as checkpoints hold it, and back."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from hgpo_jax import types
from hgpo_jax.train import checkpoint


def restored(
  store: checkpoint.Checkpoints, like: types.TrainState
) -> types.TrainState:
  """Reads the newest state; what is frozen is taken from `like`."""
  return _like(store.restore(tree_of(like)), like)


def freed(state: types.TrainState) -> types.TrainState:
  """Puts shapes in the place of arrays, and gives their memory back.

  A state that is read beside another one of its size might not fit. What is
  frozen stays, as it is not read.
  """

  def shape(x: jax.Array) -> jax.ShapeDtypeStruct:
    found = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    x.delete()
    return found

  return _like(jax.tree.map(shape, tree_of(state)), state)


def tree_of(state: types.TrainState) -> dict[str, Any]:
  """What a checkpoint holds: the warm start has what is frozen already.

  A critic that does not exist has no entry, so that the runs without one can
  read what was written before there were any.
  """
  tree = {
    'params': state.params,
    'opt_state': state.opt_state,
    'step': state.step,
    'frozen': {},
  }
  return tree | ({'critic': tree_of(state.critic)} if state.critic else {})


def _like(tree: dict[str, Any], state: types.TrainState) -> types.TrainState:
  """Undoes `tree_of`."""
  critic = state.critic and _like(tree['critic'], state.critic)
  fields = {**tree, 'frozen': state.frozen, 'critic': critic}
  return dataclasses.replace(state, **fields)
