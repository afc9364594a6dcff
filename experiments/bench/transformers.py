"""Hugging Face transformers on the same weights, to compare with.

torch is no dependency of the project; where it is missing, this says so.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.bench import harness


def _model(folder: pathlib.Path, dtype: str) -> tuple[Any, Any]:
  try:
    import torch
  except ImportError:
    sys.exit('--baseline=transformers needs torch: pip install torch')
  import transformers

  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  model: Any = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=getattr(torch, dtype)
  )
  return torch, model.to(device)


def _median_seconds(torch: Any, call: Callable[[], Any], repeats: int) -> float:
  def synchronised() -> None:
    call()
    if torch.cuda.is_available():
      torch.cuda.synchronize()

  return harness.median_seconds(repeats, call=synchronised)['call']


def generate_seconds(
  folder: pathlib.Path,
  prompts: np.ndarray,
  reply: int,
  dtype: str,
  repeats: int,
) -> float:
  """Median seconds in which `generate` samples `reply` tokens per prompt.

  Args:
    folder: a Hugging Face checkpoint.
    prompts: `[B, P]` token ids.
    reply: tokens per row, all of them drawn.
    dtype: name of the type of weights and activations.
    repeats: timed calls.
  """
  torch, model = _model(folder, dtype)
  tokens = torch.tensor(prompts, dtype=torch.int64, device=model.device)

  def call() -> None:
    with torch.inference_mode():
      model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        min_new_tokens=reply,
        max_new_tokens=reply,
        pad_token_id=0,
      )

  return _median_seconds(torch, call, repeats)


def train_seconds(
  folder: pathlib.Path,
  tokens: np.ndarray,
  reply: int,
  dtype: str,
  repeats: int,
) -> float:
  """Median seconds of forward, backward and AdamW on the log-probs of replies.

  Args:
    folder: a Hugging Face checkpoint.
    tokens: `[B, L]` token ids; the last `reply` of each row are scored.
    reply: R.
    dtype: name of the type of activations; weights are float32.
    repeats: timed calls.
  """
  torch, model = _model(folder, 'float32')
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
  ids = torch.tensor(tokens, dtype=torch.int64, device=model.device)

  def call() -> None:
    with torch.autocast(
      model.device.type, getattr(torch, dtype), enabled=dtype != 'float32'
    ):
      logits = model(ids, logits_to_keep=reply + 1).logits[:, :-1]
    log_probs = torch.log_softmax(logits.float(), dim=-1)
    chosen = log_probs.gather(2, ids[:, -reply:, None])
    (-chosen.mean()).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)

  return _median_seconds(torch, call, repeats)
