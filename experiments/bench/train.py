r"""Times one optimiser step on packed turns, beside transformers on equal work.

  python -m experiments.bench.train --preset=small --json
  python -m experiments.bench.train --preset=small --baseline=transformers
  python -m experiments.bench.train --preset=1.5b --dtype=bfloat16 \
    --remat=full --row_tokens=4096 --rows=4 --micro_batches=4 \
    --median_prompt=1000

Prompt lengths are log-normal around a median, replies have one length, or with
`--median_prompt=0` every turn fills a row. The share of the roofline is model
operations per second over those of a large matrix product in the same run:
rematerialised work is not counted, padding is not, and the vocabulary is for
reply tokens alone.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments.bench import harness, policy, transformers
from hgpo_jax import types
from hgpo_jax.model import lora, remat
from hgpo_jax.model.interface import Model
from hgpo_jax.sampler import scoring
from hgpo_jax.train import optimizer as optimizer_lib
from hgpo_jax.train import packing, update
from hgpo_jax.train.compilations import Compilations

_REMAT = flags.DEFINE_enum(
  'remat', 'none', list(remat.POLICIES), 'What is kept.'
)
_ROW_TOKENS = flags.DEFINE_integer('row_tokens', 192, 'L.', lower_bound=2)
_ROWS = flags.DEFINE_integer('rows', 16, 'B of a micro-batch.', lower_bound=1)
_MICRO_BATCHES = flags.DEFINE_integer('micro_batches', 1, 'M.', lower_bound=1)
_REPLY = flags.DEFINE_integer('reply', 64, 'Tokens.', lower_bound=1)
_MEDIAN_PROMPT = flags.DEFINE_integer('median_prompt', 0, 'Tokens; 0 fills up.')
_CHUNK = flags.DEFINE_integer('logits_chunk', 512, 'Unembedded at once.')
_MOMENTS = flags.DEFINE_enum(
  'moments_dtype', 'float32', ['float32', 'bfloat16'], 'Of Adam.'
)
_LORA = flags.DEFINE_integer('lora_rank', 0, 'Train adapters; 0 trains all.')
_BASELINE = flags.DEFINE_enum('baseline', '', ['', 'transformers'], 'Beside.')
_REPEATS = harness.repeats(7)


def measure() -> dict[str, Any]:
  """Times an optimiser step, and what it is compared with."""
  model = policy.model(remat=_REMAT.value)
  shapes = _shapes()
  turns = _turns(model, shapes)
  with Compilations() as compilations:
    results = _measure(model, shapes, turns)
    results |= {
      'compilations': compilations.count,
      'compile_seconds': compilations.seconds,
    }
  if _BASELINE.value:
    seconds = _baseline_seconds(model, turns)
    tokens = sum(len(t.prompt) + len(t.reply) for t in turns)
    results['baseline_seconds'] = seconds
    results['baseline_tokens_per_second'] = tokens / seconds
    results['ratio'] = seconds / results['seconds']
  return results


def _shapes() -> packing.Shapes:
  per_row = 1
  if _MEDIAN_PROMPT.value:
    per_row = 1 + 2 * _ROW_TOKENS.value // _MEDIAN_PROMPT.value
  replies = -(-per_row * _REPLY.value // _CHUNK.value) * _CHUNK.value
  return packing.Shapes(
    tokens=_ROW_TOKENS.value,
    replies=replies if per_row > 1 else _REPLY.value,
    turns=per_row,
    rows=_ROWS.value,
    reply=_REPLY.value,
    choices=(1,),
  )


def _turns(model: Model, shapes: packing.Shapes) -> list[types.Turn]:
  """As many random turns as fill the micro-batches."""
  rng = np.random.default_rng(0)
  longest = shapes.tokens - shapes.reply
  rows = shapes.rows * _MICRO_BATCHES.value

  def turn() -> types.Turn:
    length = longest
    if _MEDIAN_PROMPT.value:
      drawn = rng.lognormal(np.log(_MEDIAN_PROMPT.value), 0.4)
      length = int(np.clip(drawn, 16, longest))
    text = rng.integers(2, model.config.vocab_size, length + shapes.reply)
    return policy.turn(text[:length], text[length:])

  turns: list[types.Turn] = []
  while True:
    extended = [*turns, turn()]
    flat = packing.flatten(extended, shapes)
    sizes = [flat.sizes, flat.reply_sizes, np.ones(len(extended), np.int64)]
    room = (shapes.tokens, shapes.replies, shapes.turns)
    if packing.first_fit(np.stack(sizes, 1), room).max() >= rows:
      return turns
    turns = extended


def _measure(
  model: Model, shapes: packing.Shapes, turns: list[types.Turn]
) -> dict[str, Any]:
  config = model.config
  adapted = model
  if _LORA.value:
    adapter = lora.Lora(_LORA.value, 2.0 * _LORA.value)
    adapted = model.replace(lora=adapter, param_dtype='bfloat16')
  params = policy.random_params(adapted)
  adapters, frozen = lora.split(params) if _LORA.value else (params, None)
  del params
  optimizer = optimizer_lib.make_optimizer(
    learning_rate=1e-6,
    warmup_steps=0,
    decay_steps=0,
    weight_decay=0.01,
    clip_norm=1.0,
    b1=0.9,
    b2=0.999,
    moments_dtype=_MOMENTS.value,
  )
  score = functools.partial(
    scoring.score, adapted, chunk=min(_CHUNK.value, shapes.replies)
  )
  step = update.make_train_step(score, update.CloningLoss(), optimizer)
  state = update.init_state(adapters, optimizer, frozen)
  del adapters, frozen
  plan = packing.pack(
    packing.flatten(turns, shapes),
    np.arange(len(turns)),
    shapes,
    _MICRO_BATCHES.value,
  )
  batch = jax.device_put(plan.unlabelled())

  def train() -> Any:
    nonlocal state
    state, scalars = step(state, batch)
    return scalars

  seconds = harness.median_seconds(_REPEATS.value, step=train)['step']
  peak = harness.peak_memory_bytes()  # before the ceilings are measured
  rate = harness.matrix_rate(config.dtype)
  lengths = [len(t.prompt) + len(t.reply) - 1 for t in turns]
  replies = len(turns) * shapes.reply
  work = policy.train_operations(config, lengths, replies)
  if _LORA.value:  # no gradient of what is frozen
    work *= 2 / 3
  return {
    'preset': policy.PRESET.value,
    'layers': config.num_layers,
    'device': jax.devices()[0].device_kind,
    'turns': len(turns),
    'fill': plan.fill(),
    'seconds': seconds,
    'tokens_per_second': sum(lengths) / seconds,
    'operations_per_second': work / seconds,
    'matrix_rate': rate,
    'peak_memory_bytes': peak,
    'roofline_share': work / seconds / rate,
  }


def _baseline_seconds(model: Model, turns: list[types.Turn]) -> float:
  """The same turns, padded on the left to the longest of them."""
  longest = max(len(t.prompt) for t in turns)
  tokens = np.zeros((len(turns), longest + _REPLY.value), np.int32)
  for row, turn in enumerate(turns):
    text = np.concatenate([turn.prompt, turn.reply])
    tokens[row, -len(text) :] = text
  plain = model.replace(lora=None)
  with policy.written(plain, policy.random_params(plain), 'float32') as path:
    return transformers.train_seconds(
      path, tokens, _REPLY.value, policy.DTYPE.value, _REPEATS.value
    )


if __name__ == '__main__':
  harness.main(measure)
