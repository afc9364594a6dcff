"""Qwen2 and Qwen2.5: biases on queries, keys and values.

Yang et al. 2024, https://arxiv.org/abs/2407.10671, sec. 2.2; sizes of Qwen2.5:
https://arxiv.org/abs/2412.15115, table 1 and the released `config.json` files.
What a `config.json` leaves out is as in transformers' `Qwen2Config`.
"""

from __future__ import annotations

import functools

from hgpo_jax.model import transformer
from hgpo_jax.model.interface import Config, float32

_config = functools.partial(Config, qkv_bias=True)

ARCHITECTURE = transformer.architecture(
  'qwen2',
  {
    'tiny': float32(_config(1024, 64, 256, 2, 4, 2, 16)),
    'small': float32(_config(4096, 256, 1024, 4, 4, 2, 64)),
    '0.5b': _config(151_936, 896, 4_864, 24, 14, 2, 64),
    '1.5b': _config(151_936, 1_536, 8_960, 28, 12, 2, 128),
    '3b': _config(151_936, 2_048, 11_008, 36, 16, 2, 128),
    '7b': _config(152_064, 3_584, 18_944, 28, 28, 4, 128, tied_head=False),
  },
  hub_prefix='qwen2.5-',
  hf_class='Qwen2ForCausalLM',
  hf_defaults={
    'rms_norm_eps': 1e-6,
    'rope_theta': 10_000.0,
    'tie_word_embeddings': False,
  },
  hf_expected={},
  options={'qkv_bias': True, 'qk_norm': False},
)
