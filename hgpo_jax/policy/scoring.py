"""Log-probs and entropies of given replies: old, new and reference policy.

The numbers are those that generation returned for the same tokens: of the
tempered distribution, constrained to the allowed replies if there were any.

Axes: B rows, P prompt columns, R reply columns, A allowed replies, D width,
V vocabulary.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from hgpo_jax.policy import qwen2, sampling


@flax.struct.dataclass
class Scores:
  """What a policy thinks of each reply token; 0 on padding.

  Attributes:
    log_probs: `[B, R]` float32, in nats.
    entropy: `[B, R]` float32, of the distribution the token was drawn from.
  """

  log_probs: Array
  entropy: Array


def score(
  config: qwen2.Config,
  params: qwen2.Params,
  tokens: Array,
  valid: Array,
  *,
  prompt_len: int,
  temperature: Array | float = 1.0,
  choices: Array | None = None,
) -> Scores:
  """Scores the reply columns; only their hidden states are unembedded.

  Args:
    config: the model's size.
    params: the policy.
    tokens: `[B, P+R]` int32: the prompt padded on its left, then the reply
      (with its end-of-turn token) padded on its right.
    valid: `[B, P+R]` bool, False on padding.
    prompt_len: P, static.
    temperature: of the distribution; `Sampling.scored_temperature`.
    choices: `[B, A, R]` int32, the allowed replies as in
      `sampling.start_choices`, if the reply was drawn among them. A token that
      no allowed reply holds scores about -1e30.

  Returns: differentiable `Scores`; a token that was the only allowed one has
    log-prob exactly 0 and no gradient.
  """
  if not 0 < prompt_len < tokens.shape[1]:
    raise ValueError(
      f'prompt_len={prompt_len} with {tokens.shape[1]} columns: there must be '
      'at least one prompt column and one reply column.'
    )
  reply, said = tokens[:, prompt_len:], valid[:, prompt_len:]
  # The last reply token predicts nothing that is scored.
  hidden, _ = qwen2.forward(
    config, params, tokens[:, :-1], valid[:, :-1], last=reply.shape[1]
  )
  logits = qwen2.logits(config, params, hidden)  # [B, R, V]
  allowed = None
  if choices is not None:
    allowed = _allowed_along(choices, reply, config.vocab_size)
  log_probs = sampling.scored_log_probs(logits, temperature, allowed)
  chosen = jnp.take_along_axis(log_probs, reply[..., None], axis=-1)[..., 0]
  entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
  return Scores(
    log_probs=jnp.where(said, chosen, 0), entropy=jnp.where(said, entropy, 0)
  )


def _allowed_along(choices: Array, reply: Array, vocab_size: int) -> Array:
  """What was allowed at each position of `reply [B, R]`: `[B, R, V]` bool."""

  def step(open_: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
    position, tokens = inputs
    after = sampling.advance_choices(choices, open_, position, tokens)
    return after, open_

  positions = jnp.arange(reply.shape[1])
  start = sampling.start_choices(choices)
  _, open_ = jax.lax.scan(step, start, (positions, reply.T))  # [R, B, A]
  allowed = jax.vmap(
    sampling.allowed_tokens, in_axes=(None, 0, 0, None), out_axes=1
  )
  return allowed(choices, open_, positions, vocab_size)
