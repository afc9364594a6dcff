"""Writes hf/<case>/: tiny checkpoints and their logits by transformers.

Run once, where PyTorch is installed; the test that reads them needs none:

  pip install torch transformers
  python tests/golden/make_golden.py           # or the names of some cases

Each folder is what `save_pretrained` wrote, in float32, bfloat16 or float16,
and `golden.npz`:

  tokens: `[B, L]` int32.
  valid: `[P, B, L]` bool, P ways of padding (none, left, right; the long case
    has none alone).
  logits: `[P, B, last, columns]` float32, of the last positions and the first
    entries of the vocabulary; 0 on padding. Computed in float32 from the
    weights as stored.
"""

import pathlib
import shutil
import sys

import numpy as np
import torch
import transformers

OUT = pathlib.Path(__file__).with_name('hf')
V, LAYERS, EPS = 64, 2, 1e-6
BATCH, LENGTH = 2, 12
LONG, LAST, COLUMNS = 4_500, 8, 32  # the long case stores a corner only

# case: query heads, key heads, head size, width, feed-forward width, RoPE
# base, tied, stored type; Qwen3 where the name says so, else Qwen2
CASES = {
  'ratio1': (3, 3, 16, 32, 48, 1e4, False, 'float32'),
  'ratio5': (10, 2, 16, 24, 40, 5e5, True, 'float32'),
  'ratio6': (12, 2, 128, 16, 40, 1e6, True, 'bfloat16'),
  'ratio7': (14, 2, 64, 16, 40, 1e6, False, 'bfloat16'),
  'ratio8': (16, 2, 16, 24, 40, 1e5, False, 'float16'),
  'long': (2, 1, 16, 16, 24, 1e6, True, 'float32'),
  'qwen3_ratio2': (4, 2, 16, 24, 40, 1e6, True, 'float32'),
  'qwen3_ratio5': (10, 2, 16, 32, 40, 1e4, False, 'float32'),
  'qwen3_ratio8': (8, 1, 128, 16, 24, 1e6, False, 'bfloat16'),
}
SHARDED = {'ratio7': '60KB'}  # these are split into several files


def make_model(case: str, seed: int) -> transformers.PreTrainedModel:
  heads, kv_heads, size, width, ff_width, base, tied, dtype = CASES[case]
  kind = 'Qwen3' if case.startswith('qwen3') else 'Qwen2'
  config = getattr(transformers, f'{kind}Config')(
    vocab_size=V,
    hidden_size=width,
    intermediate_size=ff_width,
    num_hidden_layers=LAYERS,
    num_attention_heads=heads,
    num_key_value_heads=kv_heads,
    head_dim=size,
    rms_norm_eps=EPS,
    rope_parameters={'rope_type': 'default', 'rope_theta': base},
    tie_word_embeddings=tied,
    attn_implementation='eager',
  )
  model = getattr(transformers, f'{kind}ForCausalLM')(config).eval()
  rng = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, value in model.named_parameters():
      # Wide enough that attention is far from uniform and no bias is idle.
      scale = value.shape[-1] ** -0.5 if value.ndim > 1 else 0.2
      value.normal_(0, scale, generator=rng)
      if 'norm' in name:
        value.add_(1)
      if 'embed' in name or 'lm_head' in name:
        value.mul_(3)
  return model.to(getattr(torch, dtype))


def reference_logits(
  model: transformers.PreTrainedModel, tokens: np.ndarray, valid: np.ndarray
) -> np.ndarray:
  positions = np.maximum(np.cumsum(valid, axis=-1) - 1, 0)
  with torch.no_grad():
    out = model(
      input_ids=torch.tensor(tokens, dtype=torch.long),
      attention_mask=torch.tensor(valid, dtype=torch.long),
      position_ids=torch.tensor(positions, dtype=torch.long),
    )
  return out.logits.numpy() * valid[..., None]


def write_case(case: str, seed: int) -> None:
  model, folder = make_model(case, seed), OUT / case
  model.save_pretrained(folder, max_shard_size=SHARDED.get(case, '1GB'))
  (folder / 'generation_config.json').unlink(missing_ok=True)
  rng = np.random.default_rng(seed)
  slots = np.arange(LENGTH)
  if case == 'long':
    tokens = rng.integers(V, size=(1, LONG))
    valid = np.ones((1, 1, LONG), bool)
    last, columns = LAST, COLUMNS
  else:
    tokens = rng.integers(V, size=(BATCH, LENGTH))
    pad = np.array([[5], [2]])
    whole = np.ones((BATCH, LENGTH), bool)
    valid = np.stack([whole, slots >= pad, slots < LENGTH - pad])
    last, columns = LENGTH, V
  # Read anew: a cast model would keep rotary frequencies of the lower type.
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32, attn_implementation='eager'
  )
  logits = [reference_logits(model, tokens, v) for v in valid]
  np.savez_compressed(
    folder / 'golden.npz',
    tokens=tokens.astype(np.int32),
    valid=valid,
    logits=np.stack(logits)[:, :, -last:, :columns],
  )


def main() -> None:
  for seed, case in enumerate(CASES):
    if case in (sys.argv[1:] or CASES):
      shutil.rmtree(OUT / case, ignore_errors=True)
      write_case(case, seed)


if __name__ == '__main__':
  main()
