"""Writes qwen2_tiny.npz: logits of a random Qwen2 by Hugging Face transformers.

Run once, where PyTorch is installed; the test that reads the file needs none:

  pip install torch transformers
  python tests/golden/make_qwen2.py

The weights are drawn here in our own layout (blocks stacked along axis 0, a
kernel is [inputs, outputs]) and copied into `Qwen2ForCausalLM`. The file holds
the logits of these weights twice: `tied`, with the embedding as the head, and
`untied`, with a head of its own.
"""

import pathlib

import numpy as np
import torch
import transformers

V, D, F, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 61, 16, 24, 2, 4, 2, 4
ROPE_BASE, EPS = 10_000.0, 1e-6
OUT = pathlib.Path(__file__).with_name('qwen2_tiny.npz')

# Our path -> (transformers' name inside a layer, shape of one layer).
LAYER_ARRAYS = {
  'attention_norm/scale': ('input_layernorm.weight', (D,)),
  'mlp_norm/scale': ('post_attention_layernorm.weight', (D,)),
  'attention/q_proj/kernel': ('self_attn.q_proj.weight', (D, HEADS * HEAD_DIM)),
  'attention/k_proj/kernel': (
    'self_attn.k_proj.weight',
    (D, KV_HEADS * HEAD_DIM),
  ),
  'attention/v_proj/kernel': (
    'self_attn.v_proj.weight',
    (D, KV_HEADS * HEAD_DIM),
  ),
  'attention/q_proj/bias': ('self_attn.q_proj.bias', (HEADS * HEAD_DIM,)),
  'attention/k_proj/bias': ('self_attn.k_proj.bias', (KV_HEADS * HEAD_DIM,)),
  'attention/v_proj/bias': ('self_attn.v_proj.bias', (KV_HEADS * HEAD_DIM,)),
  'attention/o_proj/kernel': ('self_attn.o_proj.weight', (HEADS * HEAD_DIM, D)),
  'mlp/gate_proj/kernel': ('mlp.gate_proj.weight', (D, F)),
  'mlp/up_proj/kernel': ('mlp.up_proj.weight', (D, F)),
  'mlp/down_proj/kernel': ('mlp.down_proj.weight', (F, D)),
}


def draw_weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
  weights = {
    'embed': rng.normal(size=(V, D)),
    'head': rng.normal(size=(V, D)),
    'norm/scale': rng.normal(1, 0.2, size=D),
  }
  for path, (_, shape) in LAYER_ARRAYS.items():
    mean = 1 if path.endswith('scale') else 0
    value = rng.normal(mean, 0.3, size=(LAYERS, *shape))
    weights[f'layers/{path}'] = value
  return {k: v.astype(np.float32) for k, v in weights.items()}


def reference_logits(
  weights: dict[str, np.ndarray],
  tokens: np.ndarray,
  valid: np.ndarray,
  tied: bool,
) -> np.ndarray:
  config = transformers.Qwen2Config(
    vocab_size=V,
    hidden_size=D,
    intermediate_size=F,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    num_key_value_heads=KV_HEADS,
    head_dim=HEAD_DIM,
    rms_norm_eps=EPS,
    rope_parameters={'rope_type': 'default', 'rope_theta': ROPE_BASE},
    rope_theta=ROPE_BASE,
    tie_word_embeddings=tied,
    attn_implementation='eager',
  )
  model = transformers.Qwen2ForCausalLM(config).eval()
  state = {
    'model.embed_tokens.weight': weights['embed'],
    'model.norm.weight': weights['norm/scale'],
    'lm_head.weight': weights['embed' if tied else 'head'],
  }
  for path, (name, _) in LAYER_ARRAYS.items():
    for layer in range(LAYERS):
      value = weights[f'layers/{path}'][layer]
      state[f'model.layers.{layer}.{name}'] = (
        value.T if path.endswith('kernel') else value
      )
  model.load_state_dict(
    {k: torch.tensor(np.ascontiguousarray(v)) for k, v in state.items()}
  )
  positions = np.maximum(np.cumsum(valid, axis=1) - 1, 0)
  with torch.no_grad():
    return model(
      input_ids=torch.tensor(tokens, dtype=torch.long),
      attention_mask=torch.tensor(valid, dtype=torch.long),
      position_ids=torch.tensor(positions, dtype=torch.long),
    ).logits.numpy()


def main() -> None:
  rng = np.random.default_rng(0)
  weights = draw_weights(rng)
  tokens = rng.integers(V, size=(3, 9)).astype(np.int32)
  valid = np.arange(9) >= np.array([[0], [3], [7]])  # padded on the left
  np.savez_compressed(
    OUT,
    tokens=tokens,
    valid=valid,
    tied=reference_logits(weights, tokens, valid, tied=True),
    untied=reference_logits(weights, tokens, valid, tied=False),
    sizes=np.array([V, D, F, LAYERS, HEADS, KV_HEADS, HEAD_DIM]),
    rope_base=ROPE_BASE,
    norm_eps=EPS,
    **{f'params/{k}': v for k, v in weights.items()},
  )


if __name__ == '__main__':
  main()
