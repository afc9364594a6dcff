"""What random numbers are for: one enum and one function for each generator.

The numbers of an enum are fixed: another one would give other runs. JAX keys
and NumPy seeds are apart, so that the two enums may use the same numbers.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import jax
import numpy as np


class Key(enum.IntEnum):
  """Purposes of JAX keys."""

  INIT_PARAMS = 0
  ROLLOUT = 1  # the first round of an iteration
  EVALUATION = 2
  INIT_ADAPTERS = 4
  REFILL = 5  # later rounds of an iteration, see `rollout.max_groups`


class Seed(enum.IntEnum):
  """Purposes of NumPy generators."""

  MINIBATCHES = 1
  SHUFFLED_ADVANTAGES = 2
  TRAIN_TASKS = 3
  DEMONSTRATIONS = 4
  DRAWN_TASKS = 5


_UPDATE = 3  # keeps an update's seeds apart from those of the warm start


def key(seed: int, purpose: int, *steps: int) -> jax.Array:
  """Returns the key of one purpose at one step; no two share one.

  Args:
    seed: the run's, or an evaluation's own.
    purpose: a `Key`.
    steps: numbers that tell the uses of a purpose apart, such as the iteration.
  """
  result = jax.random.fold_in(jax.random.key(seed), purpose)
  for step in steps or (0,):
    result = jax.random.fold_in(result, step)
  return result


def generator(seed: Sequence[int], purpose: int) -> np.random.Generator:
  """Returns NumPy's generator of one purpose.

  Args:
    seed: the run's, and numbers that tell the uses of a purpose apart.
    purpose: a `Seed`. It comes last, as NumPy ignores zeros at the end.
  """
  return np.random.default_rng((*seed, purpose))


def update_seed(seed: int, step: int) -> tuple[int, int, int]:
  """Returns what the generators of iteration `step`'s update start with."""
  return seed, _UPDATE, step
