"""Writes a trained policy as a Hugging Face folder.

`python -m experiments.export --checkpoint=runs/released --output=policy` gives
what transformers, vLLM and SGLang load; adapters are merged into the weights.
"""

from __future__ import annotations

import pathlib

from absl import flags, logging

from experiments import command
from experiments.configs import base
from hgpo_jax.model import lora, weights
from hgpo_jax.model import tokenizer as tokenizer_lib
from hgpo_jax.train import build, checkpoint
from hgpo_jax.train import policy as policy_lib
from hgpo_jax.types import ConfigError

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, 'Folder of a training run.', required=True
)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'Folder to be written.', required=True
)
_STEP = flags.DEFINE_integer('step', None, 'Iteration; default: the newest.')
_DTYPE = flags.DEFINE_enum(
  'dtype', 'bfloat16', ['bfloat16', 'float16', 'float32'], 'As stored.'
)


def main() -> None:
  """Exports what the flags name."""
  logging.set_verbosity(logging.WARNING)
  folder, output = pathlib.Path(_CHECKPOINT.value), pathlib.Path(_OUTPUT.value)
  export(folder, output, step=_STEP.value, dtype=_DTYPE.value)
  print(f'{output} written')


def export(
  folder: pathlib.Path,
  output: pathlib.Path,
  *,
  step: int | None = None,
  dtype: str = 'bfloat16',
) -> None:
  """Writes the policy that the run in `folder` saved at `step` (the newest)."""
  with checkpoint.opened(folder / 'checkpoints') as store:
    config = build.fit_mesh(base.freeze(store.meta(step)['config']))
    tokenizer = tokenizer_lib.load(folder / 'warm_start' / 'tokenizer')
    policy = policy_lib.Policy(config, tokenizer)
    params = policy.saved_params(folder, store, step)
  weights.save(
    output,
    policy.base,
    lora.merge(policy.model.config.lora, params),
    dtype=dtype,
    extra={
      'eos_token_id': tokenizer_lib.end_id(tokenizer),
      'pad_token_id': tokenizer_lib.pad_id(tokenizer),
    },
  )
  tokenizer_lib.save(tokenizer, output)


if __name__ == '__main__':
  command.run(
    main, checkpoint.CheckpointError, ConfigError, weights.WeightsError
  )
