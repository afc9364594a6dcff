"""Logits -> token and log-prob: temperature, truncation, allowed replies.

Two distributions are kept apart. The *scored* one is tempered and constrained
to the allowed replies; its log-probs are returned with every token and are the
ones that training scores. The *drawn* one is the scored one cut to its top-k or
top-p tokens; truncation changes which tokens are drawn, never their log-probs.
Greedy decoding is scored at temperature 1.

Axes: B rows, A allowed replies of a row, R tokens of a reply, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import Array

MASKED = -1e30  # finite: an infinite mask makes gradients NaN


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How tokens are drawn; hashable, so that it can be static under jit.

  Attributes:
    temperature: divides the logits; 0 takes the likeliest token.
    top_k: draw among the k likeliest tokens (ties with the k-th included).
    top_p: draw among the fewest tokens that hold this much probability.
  """

  temperature: float = 1.0
  top_k: int | None = None
  top_p: float | None = None

  def __post_init__(self) -> None:
    if self.temperature < 0:
      raise ValueError(
        f'temperature={self.temperature}: must be at least 0 (0 is greedy).'
      )
    if self.top_k is not None and self.top_k < 1:
      raise ValueError(f'top_k={self.top_k}: must be at least 1, or None.')
    if self.top_p is not None and not 0 < self.top_p <= 1:
      raise ValueError(f'top_p={self.top_p}: must lie in (0, 1], or be None.')

  @property
  def scored_temperature(self) -> float:
    """The temperature of the returned log-probs, to be used in scoring too."""
    return self.temperature or 1.0


def greedy() -> Sampling:
  """Always the likeliest token."""
  return Sampling(temperature=0.0)


def scored_log_probs(
  logits: Array, temperature: Array | float, allowed: Array | None = None
) -> Array:
  """Log-probs of the tempered, constrained distribution.

  A single allowed token gets exactly 0, and no gradient.

  Args:
    logits: `[..., V]`.
    temperature: positive scalar.
    allowed: `[..., V]` bool, or None for all.

  Returns: `[..., V]` float32, about `MASKED` where not allowed.
  """
  logits = logits.astype(jnp.float32) / temperature
  if allowed is not None:
    logits = jnp.where(allowed, logits, MASKED)
  return jax.nn.log_softmax(logits, axis=-1)


def process(log_probs: Array, sampling: Sampling) -> Array:
  """Cuts scored log-probs to what is drawn from; top-k first, then top-p.

  Args:
    log_probs: `[..., V]` of `scored_log_probs`.
    sampling: its temperature has been applied already; 0 keeps one token.

  Returns: `[..., V]` float32, not normalised, `MASKED` where cut.
  """
  if sampling.temperature == 0:
    best = jnp.argmax(log_probs, axis=-1)
    keep = jax.nn.one_hot(best, log_probs.shape[-1], dtype=bool)
    return jnp.where(keep, log_probs, MASKED)
  if sampling.top_k is not None and sampling.top_k < log_probs.shape[-1]:
    floor = jax.lax.top_k(log_probs, sampling.top_k)[0][..., -1:]
    log_probs = jnp.where(log_probs >= floor, log_probs, MASKED)
  if sampling.top_p is not None and sampling.top_p < 1:
    log_probs = _cut_top_p(log_probs, sampling.top_p)
  return log_probs


def _cut_top_p(log_probs: Array, top_p: float) -> Array:
  ordered = -jnp.sort(-log_probs, axis=-1)
  probs = jax.nn.softmax(ordered, axis=-1)
  before = jnp.cumsum(probs, axis=-1) - probs  # held by likelier tokens
  kept = jnp.where(before < top_p, ordered, jnp.inf)
  floor = jnp.min(kept, axis=-1, keepdims=True)
  return jnp.where(log_probs >= floor, log_probs, MASKED)


def draw(keys: Array, log_probs: Array) -> Array:
  """One token per row, by inverting the cumulative distribution.

  It takes one uniform number per row, where Gumbel-max takes V of them, and
  sums up V in two steps, blocks first: on a CPU both matter, as either costs
  more than a small model itself.

  Args:
    keys: `[B]` keys; a row's token depends on its own key and log-probs alone.
    log_probs: `[B, V]`, of any scale.

  Returns: `[B]` int32, never a token whose probability is 0.
  """
  size = log_probs.shape[-1]
  block = 2 ** math.ceil(math.log2(size) / 2)  # about the square root
  probs = jnp.exp(log_probs - jnp.max(log_probs, axis=-1, keepdims=True))
  probs = jnp.pad(probs, ((0, 0), (0, -size % block)))
  probs = probs.reshape(probs.shape[0], -1, block)
  sums = jnp.sum(probs, axis=-1)
  ends = _cumulative(sums)
  goal = jax.vmap(jax.random.uniform)(keys) * jnp.max(ends, axis=-1)
  which = _first_above(sums, ends, goal)
  own = which[:, None]
  inside = jnp.take_along_axis(probs, own[..., None], axis=1)[:, 0]
  start = jnp.take_along_axis(ends - sums, own, axis=1)[:, 0]
  place = _first_above(inside, _cumulative(inside), goal - start)
  return which * block + place


def _cumulative(weights: Array) -> Array:
  """Running sums along the last axis, 0 where the weight is.

  A blocked sum may fall by a rounding error, and could then be hit where there
  is no weight.
  """
  return jnp.where(weights > 0, jnp.cumsum(weights, axis=-1), 0)


def _first_above(weights: Array, ends: Array, goal: Array) -> Array:
  """Where the running sums first exceed `goal [B]`: `[B]` int32.

  The last place with any weight where rounding has put the goal beyond all.
  """
  above = ends > jnp.maximum(goal, 0)[:, None]
  last = weights.shape[-1] - 1 - jnp.argmax(weights[:, ::-1] > 0, axis=-1)
  return jnp.where(jnp.any(above, axis=-1), jnp.argmax(above, axis=-1), last)


def start_choices(choices: Array) -> Array:
  """Which allowed replies are still open before the first token.

  Args:
    choices: `[B, A, R]` int32, the allowed replies of each row, each ended by
      the end-of-turn token and padded with -1; unused ones are -1 throughout.

  Returns: `[B, A]` bool.
  """
  return choices[:, :, 0] >= 0


def advance_choices(
  choices: Array, open_: Array, position: Array | int, tokens: Array
) -> Array:
  """Closes the replies that do not continue with `tokens [B]` at `position`.

  The position is one for all rows, or `[B]`.
  """
  return open_ & (_at(choices, position) == tokens[:, None])


def allowed_tokens(
  choices: Array, open_: Array, position: Array | int, vocab_size: int
) -> Array:
  """The tokens that continue an open reply: a trie read level by level.

  A row without any open reply is free: it had none from the start, or
  it is past its end.

  Args:
    choices: `[B, A, R]` as in `start_choices`.
    open_: `[B, A]` bool, the replies that agree with the tokens so far.
    position: index of the next token, in [0, R): one for all rows, or `[B]`.
    vocab_size: V.

  Returns: `[B, V]` bool.
  """
  tokens = _at(choices, position)
  usable = open_ & (tokens >= 0)
  tokens = jnp.where(usable, tokens, vocab_size)  # out of range: dropped

  def mark(tokens: Array) -> Array:
    return jnp.zeros(vocab_size, bool).at[tokens].set(True, mode='drop')

  free = ~jnp.any(usable, axis=1, keepdims=True)
  return jax.vmap(mark)(tokens) | free


def _at(choices: Array, position: Array | int) -> Array:
  """`[B, A]`: the tokens of `choices [B, A, R]` at a position."""
  places = jnp.broadcast_to(position, choices.shape[:1])
  return jnp.take_along_axis(choices, places[:, None, None], axis=2)[..., 0]
