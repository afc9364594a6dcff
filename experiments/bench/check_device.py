"""Checks this device before anything is timed on it.

  python -m experiments.bench.check_device --preset=1.5b --layers=4

Prints how far each of these is from its reference, and ends with an error where
the first two are too far:
  packed     turns packed into rows against one turn per row: loss, gradient
  attention  the platform's own against the plain one: loss, gradient
  schedule   batcher against lockstep: share of tokens that differ (a token that
             differs changes all after it), largest gap of log-probs before
  sampler    the sampler's log-probs against the learner's: KL, largest ratio
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.bench import harness, policy
from hgpo_jax import types
from hgpo_jax.model.interface import Model
from hgpo_jax.sampler import decode, scoring
from hgpo_jax.sampler.batcher import Batcher, Reply, RequestId
from hgpo_jax.sampler.sampling import Sampling
from hgpo_jax.train import packing, update
from hgpo_jax.types import Params

_TOKENS = flags.DEFINE_integer('row_tokens', 512, 'L of packed rows.')
_REPLY = flags.DEFINE_integer('reply', 32, 'Tokens.')
_EPISODES = flags.DEFINE_integer('episodes', 32, 'Rows that are sampled.')

# Relative errors that rounding explains.
_TOLERANCE = {'float32': 1e-4, 'bfloat16': 3e-2}


def measure() -> dict[str, Any]:
  """Compares everything with its reference."""
  model = policy.model()
  params = policy.random_params(model)
  replies = _sampled(model, params, lockstep=False)
  turns = [
    policy.turn(reply.prompt, reply.tokens, reply.log_probs)
    for reply in replies.values()
  ]
  packed = _loss_and_gradient(model, params, turns, 4)
  plain = model.replace(attention='plain')
  return {
    'device': jax.devices()[0].device_kind,
    **_compared('packed', packed, _loss_and_gradient(model, params, turns, 1)),
    **_compared(
      'attention', packed, _loss_and_gradient(plain, params, turns, 4)
    ),
    **_schedule(replies, _sampled(model, params, lockstep=True)),
    **_sampler(model, params, turns),
  }


def check(results: dict[str, Any]) -> None:
  """Ends the program where rounding does not explain a difference."""
  bound = _TOLERANCE[policy.DTYPE.value]
  wrong = [
    name
    for name, value in results.items()
    if name.startswith(('packed', 'attention')) and not value <= bound
  ]
  if wrong:
    sys.exit(f'{wrong}: expected at most {bound}; do not train here.')


def _sampled(
  model: Model, params: Params, *, lockstep: bool
) -> dict[RequestId, Reply]:
  """Replies of unequal, forced lengths to two turns of prompts."""
  rng = np.random.default_rng(0)
  rows = max(1, _EPISODES.value // (1 if lockstep else 2))
  shapes = decode.DecodeShapes(
    rows=rows,
    max_reply=_REPLY.value,
    prompt_buckets=(_TOKENS.value // 4,),
    prefill_buckets=(rows,),
    max_choices=0,
    chunk=_REPLY.value if lockstep else 8,
    prefill_rows=4,
    end_id=-1,
    pad_id=0,
  )
  decoder = Batcher(model, shapes, Sampling(), params, jax.random.key(1))
  replies: dict[RequestId, Reply] = {}
  for turn in range(2):
    for episode in range(_EPISODES.value):
      length = rng.integers(8, _TOKENS.value // 4)
      decoder.submit(
        RequestId(episode, turn),
        rng.integers(2, model.config.vocab_size, length).tolist(),
        limit=int(rng.integers(1, _REPLY.value + 1)),
      )
    if lockstep:
      replies |= decoder.drain()
  return replies | decoder.drain()


def _plan(
  turns: list[types.Turn], turns_of_row: int
) -> tuple[packing.Shapes, packing.MiniBatch]:
  """All turns in rows of at most so many."""
  shapes = packing.Shapes(
    tokens=_TOKENS.value,
    replies=turns_of_row * _REPLY.value,
    turns=turns_of_row,
    rows=4,
    reply=_REPLY.value,
    choices=(1,),
  )
  flat, micro = packing.flatten(turns, shapes), shapes.micro_batches(len(turns))
  return shapes, packing.pack(flat, np.arange(len(turns)), shapes, micro)


def _loss_and_gradient(
  model: Model,
  params: Params,
  turns: list[types.Turn],
  turns_of_row: int,
) -> tuple[float, Any]:
  """Of the mean negative log-prob, over all micro-batches."""
  shapes, plan = _plan(turns, turns_of_row)
  count = sum(len(turn.reply) for turn in turns)

  @jax.jit
  def part(params: Params, rows: types.Packed) -> Any:
    def loss(params: Params) -> jax.Array:
      scores = scoring.score(model, params, rows, chunk=shapes.replies)
      return -jnp.sum(scores.log_probs) / count

    return jax.value_and_grad(loss)(params)

  total: Any = None
  for i in range(len(plan.place)):
    rows = jax.tree.map(lambda x, i=i: x[i], plan.rows)
    if rows.segments.any():
      term = part(params, rows)
      total = term if total is None else jax.tree.map(jnp.add, total, term)
  return float(total[0]), total[1]


def _distance(a: Any, b: Any) -> float:
  """Norm of the difference over the norm of the latter."""
  norm = jax.jit(
    lambda tree: jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(tree)))
  )
  return float(norm(jax.tree.map(jnp.subtract, a, b)) / norm(b))


def _compared(
  name: str, own: tuple[float, Any], reference: tuple[float, Any]
) -> dict[str, float]:
  """Relative differences of a loss and its gradient."""
  (loss, gradient), (other, expected) = own, reference
  return {
    f'{name}_loss': abs(loss - other) / abs(other),
    f'{name}_gradient': _distance(gradient, expected),
  }


def _schedule(
  free: dict[RequestId, Reply], lockstep: dict[RequestId, Reply]
) -> dict[str, float]:
  differ, count, gap = 0, 0, 0.0
  for request_id, reply in free.items():
    same = np.cumprod(reply.tokens == lockstep[request_id].tokens).astype(bool)
    differ, count = differ + int(np.sum(~same)), count + same.size
    gaps = np.abs(reply.log_probs - lockstep[request_id].log_probs)[same]
    gap = max(gap, float(gaps.max(initial=0)))
  return {'schedule_tokens': differ / count, 'schedule_log_probs': gap}


def _sampler(
  model: Model, params: Params, turns: list[types.Turn]
) -> dict[str, float]:
  shapes, plan = _plan(turns, 4)
  score = functools.partial(scoring.score, model, chunk=shapes.replies)
  scored = np.asarray(update.make_scorer(score)(params, plan.unlabelled()))
  kl, count, largest = 0.0, 0, 0.0
  for at in zip(*np.nonzero(plan.turn >= 0), strict=True):
    turn = turns[plan.turn[at]]
    d = scored[at][: len(turn.reply)] - turn.log_probs
    kl, count = kl + float(np.sum(np.expm1(d) - d)), count + d.size
    largest = max(largest, float(np.max(np.abs(d))))
  return {'sampler_kl': kl / count, 'sampler_ratio': float(np.exp(largest))}


if __name__ == '__main__':
  harness.main(measure, check)
