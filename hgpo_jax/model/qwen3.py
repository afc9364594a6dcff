"""Qwen3, the dense sizes: normed queries and keys, and no biases.

Yang et al. 2025, https://arxiv.org/abs/2505.09388, sec. 2 and table 1, and the
released `config.json` files. Each head's queries and keys go through an RMSNorm
before they are turned; a head has 128 columns, whatever the width. What a
`config.json` leaves out is as in transformers' `Qwen3Config`.
"""

from __future__ import annotations

import functools

from hgpo_jax.model import transformer
from hgpo_jax.model.interface import Config, float32

_config = functools.partial(Config, qk_norm=True)
_untied = functools.partial(_config, tied_head=False)

ARCHITECTURE = transformer.architecture(
  'qwen3',
  {
    'qwen3-tiny': float32(_config(1024, 64, 256, 2, 4, 2, 32)),
    'qwen3-0.6b': _config(151_936, 1_024, 3_072, 28, 16, 8, 128),
    'qwen3-1.7b': _config(151_936, 2_048, 6_144, 28, 16, 8, 128),
    'qwen3-4b': _config(151_936, 2_560, 9_728, 36, 32, 8, 128),
    'qwen3-8b': _untied(151_936, 4_096, 12_288, 36, 32, 8, 128),
    'qwen3-14b': _untied(151_936, 5_120, 17_408, 40, 40, 8, 128),
    'qwen3-32b': _untied(151_936, 5_120, 25_600, 64, 64, 8, 128),
  },
  hub_prefix='',
  hf_class='Qwen3ForCausalLM',
  hf_defaults={
    'head_dim': 128,
    'rms_norm_eps': 1e-6,
    'rope_theta': 10_000.0,
    'tie_word_embeddings': False,
  },
  hf_expected={'attention_bias': False},
  options={'qkv_bias': False, 'qk_norm': True},
)
