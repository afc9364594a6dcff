"""A critic: the policy's backbone, and one column where it has a vocabulary.

Axes: as in `scoring`.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from hgpo_jax import types
from hgpo_jax.model.interface import Model
from hgpo_jax.types import Params

HEAD = 'value_head'


def init_params(params: Params) -> tuple[Params, Params]:
  """A policy's params -> those of a critic that values everything at 0.

  Args:
    params: of the policy; its arrays are shared, not copied.

  Returns: the backbone, without the matrix of an untied head; and what is new,
    `value_head [D]` float32.
  """
  width = params['norm']['scale'].shape  # [D]
  backbone = {name: x for name, x in params.items() if name != 'head'}
  return backbone, {HEAD: jnp.zeros(width, jnp.float32)}


def values(model: Model, params: Params, rows: types.Packed) -> Array:
  """Values what each reply token follows: all that stands before it.

  No logits are made, so there is nothing to be cut into chunks.

  Args:
    model: the policy's.
    params: both parts of `init_params`, and adapters where `model` has them.
    rows: packed turns.

  Returns: `[B, Q]` float32, in reward units; 0 on padding. At the first token
    of a reply this is the value of the turn.
  """
  model = model.replace(tied_head=True)  # it has no other one
  backbone = {name: x for name, x in params.items() if name != HEAD}
  hidden = model.forward(backbone, rows.tokens, rows.segments, at=rows.at)
  result = jnp.einsum('bqd,d->bq', hidden.astype(jnp.float32), params[HEAD])
  return jnp.where(rows.targets >= 0, result, 0)
