"""Token values `[N, R]` -> one number, by a choice of means.

A batch may be cut into micro-batches or shards. Each passes the `denominator`
of the *whole* global batch, and the parts' results then add up to exactly the
whole's. Without one, the given batch is taken as the whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp


def count_tokens(mask: jax.Array) -> jax.Array:
  """Number of tokens, float32 scalar: the denominator of `token_mean`."""
  chex.assert_rank(mask, 2)
  return mask.astype(jnp.float32).sum()


def count_rows(mask: jax.Array) -> jax.Array:
  """Number of rows with a token, float32: the denominator of the row means."""
  chex.assert_rank(mask, 2)
  return mask.astype(bool).any(axis=1).astype(jnp.float32).sum()


def token_mean(
  values: jax.Array, mask: jax.Array, denominator: jax.Array | None = None
) -> jax.Array:
  """Mean over all tokens; a long reply weighs more.

  Args:
    values: `[N, R]` float; finite on padding if it is to be differentiated.
    mask: `[N, R]` bool or 0/1, which tokens count.
    denominator: `count_tokens` of the whole batch; of this one if None.

  Returns: float32 scalar; 0 where there is no token.
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([values, mask])
  return _divide(_row_sums(values, mask).sum(), denominator, count_tokens(mask))


def row_mean_of_token_means(
  values: jax.Array, mask: jax.Array, denominator: jax.Array | None = None
) -> jax.Array:
  """Mean over rows of each row's token mean; every reply weighs the same.

  Arguments as in `token_mean`, with `count_rows` for the denominator.
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([values, mask])
  lengths = jnp.maximum(mask.astype(jnp.float32).sum(axis=1), 1)
  total = (_row_sums(values, mask) / lengths).sum()
  return _divide(total, denominator, count_rows(mask))


def row_mean_of_token_sums(
  values: jax.Array, mask: jax.Array, denominator: jax.Array | None = None
) -> jax.Array:
  """Mean over rows of each row's sum, as of a sequence's log-prob.

  Arguments as in `token_mean`, with `count_rows` for the denominator.
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([values, mask])
  return _divide(_row_sums(values, mask).sum(), denominator, count_rows(mask))


def row_mean_of_scaled_sums(
  values: jax.Array,
  mask: jax.Array,
  denominator: jax.Array | None = None,
  *,
  length: float | None = None,
) -> jax.Array:
  """Mean over rows of each row's sum, over one constant for all lengths.

  Dr. GRPO, Liu et al. 2025 (https://arxiv.org/abs/2503.20783).

  Args:
    values: as in `token_mean`, with `count_rows`.
    mask: as in `token_mean`, with `count_rows`.
    denominator: as in `token_mean`, with `count_rows`.
    length: the constant, in tokens; R if None. Give it where R differs between
      the parts of a batch.
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([values, mask])
  scale = values.shape[1] if length is None else length
  return row_mean_of_token_sums(values, mask, denominator) / scale


@dataclasses.dataclass(frozen=True)
class Aggregate:
  """A mean and the count that a caller adds up over the whole batch for it."""

  mean: Callable[..., jax.Array]
  count: Callable[[jax.Array], jax.Array]


AGGREGATES: dict[str, Aggregate] = {
  'token-mean': Aggregate(token_mean, count_tokens),
  'seq-mean-token-mean': Aggregate(row_mean_of_token_means, count_rows),
  'seq-mean-token-sum': Aggregate(row_mean_of_token_sums, count_rows),
  'seq-mean-token-sum-norm': Aggregate(row_mean_of_scaled_sums, count_rows),
}


def _row_sums(values: jax.Array, mask: jax.Array) -> jax.Array:
  return jnp.where(mask.astype(bool), values, 0).astype(jnp.float32).sum(axis=1)


def _divide(
  total: jax.Array, denominator: jax.Array | None, own: jax.Array
) -> jax.Array:
  return total / jnp.maximum(own if denominator is None else denominator, 1)
