"""Log-probs and entropies of given replies: old, new and reference policy.

The numbers are those that generation returned for the same tokens: of the
tempered distribution, constrained to the allowed replies if there were any.

Axes: B rows of packed turns, L tokens of a row, Q reply tokens of a row, C of
them unembedded at once, A allowed tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from hgpo_jax import types
from hgpo_jax.model.interface import Model
from hgpo_jax.sampler import sampling
from hgpo_jax.types import Params


@flax.struct.dataclass
class Scores:
  """What a policy thinks of each reply token; 0 on padding.

  Attributes:
    log_probs: `[B, Q]` float32, in nats.
    entropy: `[B, Q]` float32, of the distribution the token was drawn from.
  """

  log_probs: Array
  entropy: Array


def score(
  model: Model,
  params: Params,
  rows: types.Packed,
  *,
  temperature: Array | float = 1.0,
  chunk: int,
) -> Scores:
  """Scores the reply tokens; only the columns before them are unembedded.

  The logits of `chunk` columns are held at a time, in the backward pass too,
  where they are computed again; never `[B, Q, V]`.

  Args:
    model: the policy's.
    params: the policy.
    rows: packed turns. A token that is not among the allowed ones scores about
      -1e30.
    temperature: of the distribution; `Sampling.scored_temperature`.
    chunk: C, a divisor of Q; static.

  Returns: differentiable `Scores`; a token that was the only allowed one has
    log-prob exactly 0 and no gradient.
  """
  hidden = model.forward(params, rows.tokens, rows.segments, at=rows.at)

  def of_chunk(columns: tuple[Array, ...]) -> Scores:
    hidden, targets, choices = columns  # [B*C, D], [B*C], [B*C, A]
    logits = model.logits(params, hidden)
    allowed = _allowed(choices, model.config.vocab_size)
    log_probs = sampling.scored_log_probs(logits, temperature, allowed)
    return _of_tokens(log_probs, targets)

  columns = hidden, rows.targets, rows.choices
  return _by_chunks(of_chunk, columns, chunk)


def _by_chunks(
  fn: Callable[[tuple[Array, ...]], Scores],
  columns: tuple[Array, ...],
  chunk: int,
) -> Scores:
  """Maps `[B*C, ...]` -> `[B*C]` over the Q columns of `[B, Q, ...]`."""
  batch, size = columns[0].shape[:2]
  if size % chunk:
    raise ValueError(
      f'{size} reply places in chunks of {chunk}: expected a divisor.'
    )

  def cut(x: Array) -> Array:  # columns are cut, rows stay on their device
    x = x.reshape(batch, size // chunk, chunk, *x.shape[2:])
    return jnp.swapaxes(x, 0, 1).reshape(
      size // chunk, batch * chunk, *x.shape[3:]
    )

  def joined(x: Array) -> Array:
    x = x.reshape(size // chunk, batch, chunk)
    return jnp.swapaxes(x, 0, 1).reshape(batch, size)

  if size == chunk:  # fits at once, so it may be kept for the backward pass
    scores = fn(tuple(cut(x)[0] for x in columns))
  else:
    again = jax.checkpoint(fn, prevent_cse=False)
    scores = jax.lax.map(again, tuple(map(cut, columns)))
  return jax.tree.map(joined, scores)


def _of_tokens(log_probs: Array, targets: Array) -> Scores:
  """`log_probs [T, V]`, `targets [T]`, -1 on padding -> scores `[T]`."""
  # A comparison, not a gather: it runs where the shard of V is, and needs no
  # scatter on the way back.
  own = jnp.arange(log_probs.shape[-1])[None] == targets[:, None]
  entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
  return Scores(
    log_probs=jnp.sum(jnp.where(own, log_probs, 0), axis=-1),
    entropy=jnp.where(targets >= 0, entropy, 0),
  )


def _allowed(choices: Array, vocab_size: int) -> Array | None:
  """Lists of tokens `[T, A]`, -1 unused -> `[T, V]` bool; an empty list: all.

  None where no row of the batch can be limited.
  """
  if not choices.shape[1]:
    return None
  usable = choices >= 0
  tokens = jnp.where(usable, choices, vocab_size)  # out of range: dropped
  row = jnp.arange(choices.shape[0])[:, None]
  allowed = jnp.zeros((choices.shape[0], vocab_size), bool)
  allowed = allowed.at[row, tokens].set(True, mode='drop')
  return allowed | ~jnp.any(usable, axis=1, keepdims=True)
