"""Generation: equal to a slow loop, row by row, whatever the other rows."""

import jax
import numpy as np
import pytest

from hgpo_jax.policy import generate, qwen2, sampling
from hgpo_jax.policy.sampling import Sampling

CONFIG = qwen2.Config(40, 16, 32, 2, 4, 2, 4, dtype='float32')
END, PAD, R = 1, 0, 5


def make(method=None, **changes):
  buckets = {
    'prompt_buckets': (8,),
    'batch_buckets': (8,),
    'choice_buckets': (4,),
  }
  return generate.make_generator(
    CONFIG,
    sampling=method or Sampling(),
    max_reply=R,
    end_id=END,
    pad_id=PAD,
    **(buckets | changes),
  )


@pytest.fixture(scope='module')
def params():
  init = jax.jit(qwen2.init_params, static_argnums=0)
  params = init(CONFIG, jax.random.key(0))
  return jax.tree.map(lambda a: a * 10 if a.ndim > 1 else a, params)


def random_prompts(n, seed=0, longest=8):
  rng = np.random.default_rng(seed)
  return [
    list(rng.integers(2, 40, rng.integers(1, longest + 1))) for _ in range(n)
  ]


def row_keys(n, seed=1):
  return jax.random.split(jax.random.key(seed), n)


def slow_greedy(params, prompt, pad_to=16):
  """One full forward per token, without cache, left padding or batch."""
  tokens, reply, log_probs = list(prompt), [], []
  forward = jax.jit(qwen2.forward, static_argnums=0)
  while len(reply) < R and END not in reply:
    padded = np.zeros((1, pad_to), np.int32)
    padded[0, : len(tokens)] = tokens
    valid = np.arange(pad_to)[None] < len(tokens)
    hidden, _ = forward(CONFIG, params, padded, valid)
    logits = qwen2.logits(CONFIG, params, hidden[0, len(tokens) - 1])
    best = int(np.argmax(logits))
    log_probs.append(float(jax.nn.log_softmax(logits)[best]))
    reply.append(best)
    tokens.append(best)
  return reply, log_probs


def test_greedy_equals_a_loop_without_cache(params):
  prompts = random_prompts(8)
  out = make(sampling.greedy())(params, prompts, row_keys(8))
  for i, prompt in enumerate(prompts):
    reply, log_probs = slow_greedy(params, prompt)
    n = out.lengths[i]
    assert list(out.tokens[i, :n]) == reply
    np.testing.assert_allclose(out.log_probs[i, :n], log_probs, atol=2e-5)


def test_top_1_is_greedy(params):
  prompts, keys = random_prompts(8), row_keys(8)
  greedy = make(sampling.greedy())(params, prompts, keys)
  top_1 = make(Sampling(top_k=1))(params, prompts, keys)
  np.testing.assert_array_equal(greedy.tokens, top_1.tokens)
  np.testing.assert_array_equal(greedy.log_probs, top_1.log_probs)


def test_padding_follows_the_end(params):
  choices = [[[5, END], [6, 7, END]]] * 8
  out = make()(params, random_prompts(8), row_keys(8), choices)
  assert set(out.lengths) == {2, 3}
  for tokens, log_probs, n in zip(
    out.tokens, out.log_probs, out.lengths, strict=True
  ):
    assert tokens[n - 1] == END and END not in tokens[: n - 1]
    assert (tokens[n:] == PAD).all() and (log_probs[n:] == 0).all()


def test_rows_do_not_see_each_other(params):
  """Same key, same bits, whatever stands in the other rows of the batch."""
  generator = make()
  prompts, keys = random_prompts(8), row_keys(8)
  out = generator(params, prompts, keys)
  others = random_prompts(8, seed=5)
  for i in (0, 3, 7):
    mixed, mixed_keys = list(others), row_keys(8, seed=9)
    mixed[2] = prompts[i]  # at another place, too
    mixed_keys = mixed_keys.at[2].set(keys[i])
    again = generator(params, mixed, mixed_keys)
    np.testing.assert_array_equal(again.tokens[2], out.tokens[i])
    np.testing.assert_array_equal(again.log_probs[2], out.log_probs[i])
  alone = generator(params, prompts[:1], keys[:1])
  np.testing.assert_array_equal(alone.log_probs[0], out.log_probs[0])
  assert generator.num_compilations == 1


def test_buckets_agree(params):
  prompts, keys = random_prompts(6), row_keys(6)
  small = make()(params, prompts, keys)
  large = make(prompt_buckets=(16,))(params, prompts, keys)
  np.testing.assert_array_equal(small.tokens, large.tokens)
  np.testing.assert_allclose(small.log_probs, large.log_probs, atol=1e-5)


def test_keys_decide_the_reply(params):
  prompts = [[5, 6, 7]] * 8
  out = make()(params, prompts, row_keys(8))
  assert len({tuple(t) for t in out.tokens}) > 1
  same = make()(params, prompts, jax.random.key_data(row_keys(8)))
  np.testing.assert_array_equal(out.tokens, same.tokens)


def test_replies_stay_among_the_choices(params):
  rng = np.random.default_rng(0)
  choices = [
    [
      [*map(int, rng.integers(2, 6, rng.integers(1, R))), END]
      for _ in range(rng.integers(1, 5))
    ]
    for _ in range(40)
  ]
  choices[7] = []  # this row may say anything
  out = make()(params, random_prompts(40), row_keys(40), choices)
  for row, tokens, n in zip(choices, out.tokens, out.lengths, strict=True):
    assert not row or list(tokens[:n]) in row
  free = make()(params, random_prompts(40), row_keys(40))
  np.testing.assert_array_equal(out.tokens[7], free.tokens[7])


def test_compilations_are_bounded_and_shared(params):
  buckets = {'prompt_buckets': (8, 16)}
  hot, cold = make(Sampling(1.0), **buckets), make(Sampling(0.5), **buckets)
  before = generate.decode._cache_size()
  for n, longest in [(1, 3), (5, 8), (8, 9), (2, 16), (17, 12), (9, 4)]:
    prompts = [[3] * longest for _ in range(n)]
    hot(params, prompts, row_keys(n))
    cold(params, prompts, row_keys(n))
  assert generate.decode._cache_size() - before <= 2
  assert hot.num_compilations == cold.num_compilations == 2
  assert hot.max_compilations == 2 * 1 * (1 + 1)


def test_long_prompts_lose_their_first_tokens(params):
  generator = make()
  prompt = list(range(2, 22))
  keys = jax.numpy.stack([jax.random.key(4)] * 2)
  out = generator(params, [prompt, prompt[-8:]], keys)
  assert generator.num_truncated == 1
  np.testing.assert_array_equal(out.tokens[0], out.tokens[1])


def test_misfit_requests_are_refused(params):
  generator, keys = make(), row_keys(1)
  with pytest.raises(ValueError, match='row_keys'):
    generator(params, [[3], [4]], keys)
  with pytest.raises(ValueError, match='empty'):
    generator(params, [[]], keys)
  with pytest.raises(ValueError, match='rows of choices'):
    generator(params, [[3]], keys, [])
  with pytest.raises(ValueError, match='max_reply=5'):
    generator(params, [[3]], keys, [[[2, 3, 4, 5, 6, END]]])
  with pytest.raises(ValueError, match='end_id=1'):
    generator(params, [[3]], keys, [[[2, 3]]])
  with pytest.raises(ValueError, match='choice_buckets'):
    generator(params, [[3]], keys, [[[2, END]] * 5])
