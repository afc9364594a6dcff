"""Records that cross modules, a shape per field.

Axes: M micro-batches, B packed rows, L tokens of a packed row, Q reply tokens
of a packed row, W turns of a packed row, N turns, R reply tokens of a turn, A
choices.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any, TypeAlias

import flax.struct
import jax
import numpy as np

# A nest of arrays, or of what stands in their place: params, a state of optax,
# a training state. JAX walks through dicts, tuples and registered records
# alike, and no type that checkers know describes that.
PyTree: TypeAlias = Any
Params = dict[
  str, PyTree
]  # nested dict of arrays; leaves of layers are stacked
Leaf = jax.Array | jax.ShapeDtypeStruct  # an array, or its shape and type alone


class ConfigError(ValueError):
  """A config field holds what cannot work; the text names field and cure."""


def one_of(field: str, value: str, known: Collection[str]) -> None:
  """Raises ConfigError unless `value` is among the `known` names."""
  if value not in known:
    raise ConfigError(f'{field} is {value!r}; expected one of {sorted(known)}.')


def ordered_sum(values: Iterable[float]) -> float:
  """Adds floats first to last and rounds after each, on every Python alike.

  The built-in `sum` compensates what rounding loses since Python 3.12, so its
  last bit depends on the version.
  """
  return functools.reduce(operator.add, values, 0)


@dataclasses.dataclass(frozen=True)
class Turn:
  """One prompt, one reply and its result.

  Attributes:
    prompt: `[p]` int32 token ids.
    reply: `[r]` int32 token ids, the end of turn included.
    log_probs: `[r]` float32, of the reply under the policy that sampled it.
    choices: the replies that were allowed, as token ids; empty when decoding
      was free.
    observation: the raw text that the reply answers (the state that step-level
      estimators group by).
    action: what the reply was projected to.
    valid: whether the reply was well formed.
    reward: the world's reward for the action, in the world's units.
  """

  prompt: np.ndarray
  reply: np.ndarray
  log_probs: np.ndarray
  choices: tuple[tuple[int, ...], ...]
  observation: str
  action: str
  valid: bool
  reward: float


@dataclasses.dataclass(frozen=True)
class Trajectory:
  """One episode.

  Attributes:
    task: the start state; the episodes of a group share it.
    turns: its turns, first to last.
    won: whether the task was solved.
    truncated: whether the step limit ended it.
    parts: what the world says that its last reward is made of, by name.
  """

  task: Hashable
  turns: tuple[Turn, ...]
  won: bool
  truncated: bool
  parts: Mapping[str, float] = dataclasses.field(default_factory=dict)

  @property
  def total_reward(self) -> float:
    """Undiscounted sum of its turns' rewards, in the world's units."""
    return ordered_sum(turn.reward for turn in self.turns)


@flax.struct.dataclass
class Packed:
  """Turns in rows of one size: all that a policy reads to score replies.

  A turn is its prompt and its reply without the last token, which predicts
  nothing. A row holds whole turns, one behind the other.

  Attributes:
    tokens: `[B, L]` int32.
    segments: `[B, L]` int32, which of the row's turns a token belongs to,
      counted from 1; 0 on padding.
    at: `[B, Q]` int32, for each reply token the column that predicts it; 0 on
      padding.
    targets: `[B, Q]` int32, the reply tokens; -1 on padding.
    choices: `[B, Q, A]` int32, the tokens that were allowed there, -1 as
      padding; where there is none (and with A = 0), anything was.
  """

  tokens: jax.Array
  segments: jax.Array
  at: jax.Array
  targets: jax.Array
  choices: jax.Array


@flax.struct.dataclass
class Batch:
  """What the learner reads: packed rows, and the turns in them one by one.

  Turn n lies in row n // W, so that nothing of a row leaves its device. A
  mini-batch is one such record with a leading axis `[M]` of micro-batches.

  Attributes:
    rows: B rows.
    place: `[N, R]` int32, which of its row's Q reply places a token has; -1
      on padding. N = B W.
    old_log_probs: `[N, R]` float32, of the policy that sampled.
    ref_log_probs: `[N, R]` float32, of the frozen reference.
    advantages: `[N]` float32; `[N, R]` where the tokens of a turn differ.
  """

  rows: Packed
  place: jax.Array
  old_log_probs: jax.Array
  ref_log_probs: jax.Array
  advantages: jax.Array


@flax.struct.dataclass
class ValueBatch:
  """What a critic learns from, laid out as in `Batch`.

  It has r values per turn: R, one for each token of a reply, or 1, the turn's.

  Attributes:
    rows: B rows.
    place: `[N, r]` int32, which of its row's Q reply places has a value; -1 on
      padding.
    old_values: `[N, r]` float32, of the critic before the update.
    targets: `[N, r]` float32, what the values should be.
  """

  rows: Packed
  place: jax.Array
  old_values: jax.Array
  targets: jax.Array


@flax.struct.dataclass
class TrainState:
  """What the optimiser changes, and what the policy has beside it.

  Attributes:
    params: what is trained: the policy, or its adapters.
    opt_state: optax's state for them.
    step: `[]` int32, optimiser updates done.
    frozen: params that stay as they are; {} where all are trained.
    critic: the state of a critic that is trained beside the policy; or None.
  """

  params: Params
  opt_state: PyTree
  step: jax.Array
  frozen: Params = flax.struct.field(default_factory=dict)
  critic: TrainState | None = None
