"""Scoring: the numbers of generation, differentiable, silent on padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hgpo_jax.policy import generate, qwen2, sampling, scoring

CONFIG = qwen2.Config(40, 16, 32, 2, 4, 2, 4, dtype='float32')
END, PAD, R, P, B = 1, 0, 5, 8, 8
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [14], [15, 16, 17, 18]]
CHOICES = [
  [[20, 21, END], [20, 22, 23, END], [24, END]],
  [[30, END], [31, END], [31, 32, END]],
  [[25, 26, END]],  # forced from its first token to its last
  [],  # anything goes
]

score = jax.jit(
  scoring.score,
  static_argnums=0,
  static_argnames=('prompt_len',),
)


@pytest.fixture(scope='module')
def params():
  init = jax.jit(qwen2.init_params, static_argnums=0)
  params = init(CONFIG, jax.random.key(0))
  return jax.tree.map(lambda a: a * 10 if a.ndim > 1 else a, params)


def generated(params, temperature, choices):
  """What generation returned, as a batch for `score`."""
  generator = generate.make_generator(
    CONFIG,
    sampling=sampling.Sampling(temperature),
    max_reply=R,
    end_id=END,
    pad_id=PAD,
    prompt_buckets=(P,),
    batch_buckets=(B,),
    choice_buckets=(4,),
  )
  keys = jax.random.split(jax.random.key(7), len(PROMPTS))
  out = generator(params, PROMPTS, keys, choices)
  prompt, valid = generate.pack_prompts(PROMPTS, B, P, PAD)
  said = np.zeros((B, R), bool)
  said[: len(PROMPTS)] = np.arange(R) < out.lengths[:, None]
  reply = np.full((B, R), PAD, np.int32)
  reply[: len(PROMPTS)] = out.tokens
  tokens = np.concatenate([prompt, reply], axis=1)
  packed = None
  if choices is not None:
    packed = generate.pack_choices(choices, B, 4, R)
  return out, tokens, np.concatenate([valid, said], axis=1), packed


@pytest.mark.parametrize('temperature', [1.0, 0.4])
@pytest.mark.parametrize('choices', [None, CHOICES], ids=['free', 'choices'])
def test_equals_generation(params, temperature, choices):
  out, tokens, valid, packed = generated(params, temperature, choices)
  scores = score(
    CONFIG,
    params,
    tokens,
    valid,
    prompt_len=P,
    temperature=temperature,
    choices=packed,
  )
  assert out.log_probs.min() < -0.1  # there is something to compare
  real = scores.log_probs[: len(PROMPTS)]
  np.testing.assert_allclose(real, out.log_probs, atol=1e-5)
  padding = ~valid[:, P:]
  assert (scores.log_probs[padding] == 0).all()
  assert (scores.entropy[padding] == 0).all()


def test_matches_a_loop_over_replies(params):
  """Without choices: each token's log-prob by one full forward per prefix."""
  _, tokens, valid, _ = generated(params, 0.7, None)
  scores = score(CONFIG, params, tokens, valid, prompt_len=P, temperature=0.7)
  hidden, _ = qwen2.forward(CONFIG, params, tokens, valid)
  logits = np.array(qwen2.logits(CONFIG, params, hidden), np.float64) / 0.7
  for row in range(4):
    for r in range(R):
      if not valid[row, P + r]:
        continue
      exps = np.exp(logits[row, P + r - 1])
      probs = exps / exps.sum()
      np.testing.assert_allclose(
        scores.log_probs[row, r], np.log(probs[tokens[row, P + r]]), atol=2e-5
      )
      np.testing.assert_allclose(
        scores.entropy[row, r], -(probs * np.log(probs)).sum(), atol=2e-5
      )


def test_forced_tokens_score_0_without_gradient(params):
  _, tokens, valid, packed = generated(params, 1.0, CHOICES)

  def total(params, keep):
    scores = scoring.score(
      CONFIG, params, tokens, valid, prompt_len=P, choices=packed
    )
    return jnp.sum(keep * (scores.log_probs + scores.entropy)), scores

  grad = jax.jit(jax.grad(total, has_aux=True))
  forced_row = jnp.arange(B)[:, None] == 2
  gradient, scores = grad(params, forced_row)
  assert (scores.log_probs[2] == 0).all() and (scores.entropy[2] == 0).all()
  assert all((g == 0).all() for g in jax.tree.leaves(gradient))
  gradient, _ = grad(params, ~forced_row)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
  assert any((g != 0).any() for g in jax.tree.leaves(gradient))


def test_other_rows_change_nothing(params):
  _, tokens, valid, packed = generated(params, 1.0, CHOICES)
  scores = score(CONFIG, params, tokens, valid, prompt_len=P, choices=packed)
  valid[1:] = False  # rows that are padding throughout
  alone = score(CONFIG, params, tokens, valid, prompt_len=P, choices=packed)
  np.testing.assert_array_equal(alone.log_probs[0], scores.log_probs[0])
  assert (alone.log_probs[1:] == 0).all()


def test_prompt_len_outside_the_columns_is_refused(params):
  tokens, valid = np.ones((1, 4), np.int32), np.ones((1, 4), bool)
  with pytest.raises(ValueError, match='prompt_len=4'):
    scoring.score(CONFIG, params, tokens, valid, prompt_len=4)
