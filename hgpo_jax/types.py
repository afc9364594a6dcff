"""Records that cross modules, a shape per field.

N rows (one row = one turn: prompt and reply), P prompt columns, R reply
columns, A choices per row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

import flax.struct
import jax
import numpy as np


class ConfigError(ValueError):
  """A config field holds what cannot work; the text names field and cure."""


@dataclasses.dataclass(frozen=True)
class Turn:
  """One prompt, one reply, and what came of it.

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
  """

  task: Hashable
  turns: tuple[Turn, ...]
  won: bool
  truncated: bool


@flax.struct.dataclass
class Batch:
  """Rows of one size, ready for the learner; padding rows have mask False.

  Attributes:
    tokens: `[N, P + R]` int32, the prompt left-padded to P columns, the reply
      right-padded to R.
    valid: `[N, P + R]` bool, False on padding.
    choices: `[N, A, R]` int32 allowed replies, -1 as padding; A = 0 when
      decoding was free.
    old_log_probs: `[N, R]` float32, of the policy that sampled.
    ref_log_probs: `[N, R]` float32, of the frozen reference.
    advantages: `[N]` float32.
    mask: `[N]` bool, False on padding rows.
  """

  tokens: jax.Array
  valid: jax.Array
  choices: jax.Array
  old_log_probs: jax.Array
  ref_log_probs: jax.Array
  advantages: jax.Array
  mask: jax.Array


@flax.struct.dataclass
class TrainState:
  """What the optimiser changes.

  Attributes:
    params: the policy.
    opt_state: optax's state for them.
    step: `[]` int32, optimiser updates done.
  """

  params: Any
  opt_state: Any
  step: jax.Array
