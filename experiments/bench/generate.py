r"""Times generation: prompts read, tokens decoded, batcher against lockstep.

  python -m experiments.bench.generate --preset=small --json
  python -m experiments.bench.generate --preset=small --baseline=transformers
  python -m experiments.bench.generate --preset=1.5b --dtype=bfloat16 \
    --batch=128 --prompt=1024 --reply=128 --turns=5

Every reply has `--reply` tokens. The share of the roofline is that of decoding:
the bytes that a step must read (weights once, each row's keys and values) over
its time, beside a large copy in the same run; weights that stay in a CPU's
cache put it over 1. That of prompts is operations beside a matrix product's.

With `--turns`, episodes of so many turns are played, with reply lengths from a
log-normal (median 100, at most `--reply`), forced so that both schedules do the
same work: a finished row goes on at once, or waits for all others.
"""

from __future__ import annotations

import contextlib
import pathlib
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments.bench import harness, policy, transformers
from hgpo_jax.model import weights
from hgpo_jax.model.interface import Model
from hgpo_jax.sampler import decode
from hgpo_jax.sampler.batcher import Batcher, RequestId
from hgpo_jax.sampler.sampling import Sampling
from hgpo_jax.train.compilations import Compilations
from hgpo_jax.types import Params

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', '', 'Hugging Face folder; default: random weights.'
)
_BATCH = flags.DEFINE_integer('batch', 16, 'Rows.', lower_bound=1)
_PROMPT = flags.DEFINE_integer('prompt', 128, 'Tokens.', lower_bound=2)
_REPLY = flags.DEFINE_integer('reply', 64, 'Tokens.', lower_bound=2)
_CHUNK = flags.DEFINE_integer('chunk', 64, 'Tokens between looks.')
_PREFILL = flags.DEFINE_integer('prefill', 0, 'Prompts read at once; 0 is all.')
_TURNS = flags.DEFINE_integer('turns', 0, 'Of each episode; 0 plays none.')
_BASELINE = flags.DEFINE_enum('baseline', '', ['', 'transformers'], 'Beside.')
_REPEATS = harness.repeats(5)


def measure() -> dict[str, Any]:
  """Times generation, and what it is compared with."""
  model = _model()
  rng = np.random.default_rng(0)
  prompts = rng.integers(
    2, model.config.vocab_size, (_BATCH.value, _PROMPT.value)
  )
  with Compilations() as compilations:
    params = _params(model)
    results = _measure(model, params, prompts)
    if _TURNS.value:
      results |= _rollouts(model, params, rng)
    results |= {
      'compilations': compilations.count,
      'compile_seconds': compilations.seconds,
    }
  if _BASELINE.value:
    folder: Any = contextlib.nullcontext(pathlib.Path(_CHECKPOINT.value))
    if not _CHECKPOINT.value:
      folder = policy.written(model, params, policy.DTYPE.value)
    del params
    with folder as path:
      seconds = transformers.generate_seconds(
        path, prompts, _REPLY.value, policy.DTYPE.value, _REPEATS.value
      )
    results['baseline_tokens_per_second'] = (
      _BATCH.value * _REPLY.value / seconds
    )
    results['ratio'] = seconds / results['seconds']
  return results


def _model() -> Model:
  dtype = policy.DTYPE.value
  if _CHECKPOINT.value:
    return weights.model_from_hf(
      _CHECKPOINT.value, dtype=dtype, param_dtype=dtype, cache_dtype=dtype
    )
  return policy.model(param_dtype=dtype)


def _params(model: Model) -> Params:
  if _CHECKPOINT.value:
    return weights.load(_CHECKPOINT.value, model)
  return policy.random_params(model)


def _shapes() -> decode.DecodeShapes:
  return decode.DecodeShapes(
    rows=_BATCH.value,
    max_reply=_REPLY.value,
    prompt_buckets=(_PROMPT.value,),
    prefill_buckets=(_PREFILL.value or _BATCH.value,),
    max_choices=0,
    chunk=_CHUNK.value,
    prefill_rows=min(8, _BATCH.value),
    end_id=-1,  # nothing ends a reply but its limit
    pad_id=0,
  )


def _measure(
  model: Model, params: Params, prompts: np.ndarray
) -> dict[str, Any]:
  """One batch of prompts, answered; and the same without decoding."""

  def call(reply: int) -> None:
    batcher = Batcher(model, _shapes(), Sampling(), params, jax.random.key(1))
    for episode, prompt in enumerate(prompts):
      batcher.submit(RequestId(episode, 0), prompt, limit=reply)
    batcher.drain()

  medians = harness.median_seconds(
    _REPEATS.value, whole=lambda: call(_REPLY.value), reading=lambda: call(1)
  )
  seconds, reading = medians['whole'], medians['reading']
  step = (seconds - reading) / (_REPLY.value - 1)
  tokens = _BATCH.value * _REPLY.value
  peak = harness.peak_memory_bytes()  # before the ceilings are measured
  bandwidth = harness.copy_bandwidth()
  config = model.config
  rate = harness.matrix_rate(config.dtype)
  lengths = [_PROMPT.value] * _BATCH.value
  # Of the three thirds of a training step, reading prompts is the first.
  read = policy.train_operations(config, lengths, _BATCH.value) / 3
  context = _PROMPT.value + _REPLY.value / 2
  moved = policy.decode_bytes(config, _BATCH.value, context)
  return {
    'preset': _CHECKPOINT.value or policy.PRESET.value,
    'layers': config.num_layers,
    'device': jax.devices()[0].device_kind,
    'seconds': seconds,
    'tokens_per_second': tokens / seconds,
    'prompt_tokens_per_second': prompts.size / reading,
    'prompt_roofline_share': read / reading / rate,
    'decode_step_ms': 1e3 * step,
    'decode_bytes_per_second': moved / step,
    'copy_bandwidth': bandwidth,
    'peak_memory_bytes': peak,
    'roofline_share': moved / step / bandwidth,
  }


def _rollouts(
  model: Model, params: Params, rng: np.random.Generator
) -> dict[str, Any]:
  """Tokens per second of equal episodes under both schedules."""
  shape = (_BATCH.value, _TURNS.value)
  lengths = np.clip(rng.lognormal(np.log(100), 1.0, shape), 1, _REPLY.value)
  prompts = rng.integers(2, model.config.vocab_size, (*shape, _PROMPT.value))

  def play(lockstep: bool) -> None:
    batcher = Batcher(model, _shapes(), Sampling(), params, jax.random.key(2))
    ready = [(episode, 0) for episode in range(_BATCH.value)]
    left = prompts.shape[0] * prompts.shape[1]
    while left:
      if not lockstep or not batcher.busy:
        for episode, turn in ready:
          batcher.submit(
            RequestId(episode, turn),
            prompts[episode, turn],
            limit=int(lengths[episode, turn]),
          )
        ready = []
      batcher.start()
      for reply in batcher.finished():
        left -= 1
        episode, turn = reply.request_id
        if turn + 1 < _TURNS.value:
          ready.append((episode, turn + 1))

  seconds = harness.median_seconds(
    1, batcher=lambda: play(False), lockstep=lambda: play(True)
  )
  tokens = float(np.sum(lengths.astype(int)))
  return {
    'rollout_tokens_per_second': tokens / seconds['batcher'],
    'lockstep_tokens_per_second': tokens / seconds['lockstep'],
    'batcher_over_lockstep': seconds['lockstep'] / seconds['batcher'],
  }


if __name__ == '__main__':
  harness.main(measure)
