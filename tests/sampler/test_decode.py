"""Generation: equal to a slow loop, row by row, whatever the other rows."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from hgpo_jax.sampler import decode, sampling
from hgpo_jax.sampler.batcher import Batcher, RequestId
from hgpo_jax.sampler.sampling import Sampling
from tests.small_decoder import (
  END,
  MODEL,
  SHAPES,
  R,
  random_prompts,
  small_model,
)


def answer(
  params,
  prompts,
  method=None,
  *,
  shapes=SHAPES,
  seed=1,
  choices=None,
  model=MODEL,
):
  """Replies in the order of the prompts; episode i says turn 0."""
  method = method or Sampling()
  batcher = Batcher(model, shapes, method, params, jax.random.key(seed))
  for i, prompt in enumerate(prompts):
    batcher.submit(RequestId(i, 0), prompt, choices[i] if choices else ())
  replies = batcher.drain()
  return [replies[RequestId(i, 0)] for i in range(len(prompts))]


def assert_same(actual, expected, atol=0.0):
  for a, b in zip(actual, expected, strict=True):
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_allclose(a.log_probs, b.log_probs, rtol=0, atol=atol)


@functools.partial(jax.jit, static_argnums=0)
def next_log_probs(model, params, tokens, last):
  hidden = model.forward(params, tokens)[0, last]
  return jax.nn.log_softmax(model.logits(params, hidden))


def slow_loop(params, prompt, choose, model=MODEL, columns=16):
  """One full forward per token, without cache, chunks or other rows."""
  tokens, reply, log_probs = list(prompt), [], []
  while len(reply) < R and END not in reply:
    padded = np.zeros((1, columns), np.int32)
    padded[0, : len(tokens)] = tokens
    scores = next_log_probs(model, params, padded, len(tokens) - 1)
    token = int(choose(scores, len(reply)))
    log_probs.append(float(scores[token]))
    reply.append(token)
    tokens.append(token)
  return reply, log_probs


def test_greedy_equals_a_loop_without_cache(params):
  prompts = random_prompts(8)
  for prompt, got in zip(
    prompts, answer(params, prompts, sampling.greedy()), strict=True
  ):
    reply, log_probs = slow_loop(params, prompt, lambda s, _: np.argmax(s))
    assert got.tokens.tolist() == reply
    assert got.prompt.tolist() == prompt
    np.testing.assert_allclose(got.log_probs, log_probs, atol=2e-5)


@jax.jit
def drawn(key, position, log_probs):
  here = jax.random.fold_in(key, position)
  return sampling.draw(here[None], log_probs[None])[0]


def test_each_position_has_the_key_of_its_episode_and_turn(params):
  prompts = random_prompts(5, seed=3)
  key = jax.random.key(7)
  for i, got in enumerate(answer(params, prompts, seed=7)):
    own = jax.random.fold_in(jax.random.fold_in(key, i), 0)

    def choose(scores, position, own=own):
      return drawn(own, position, scores)

    reply, _ = slow_loop(params, prompts[i], choose)
    assert got.tokens.tolist() == reply


def test_row_keys_are_all_different():
  names = np.stack(np.meshgrid(np.arange(64), np.arange(20)), -1).reshape(-1, 2)
  key = jax.random.key_data(jax.random.key(1))
  keys = np.asarray(jax.jit(decode.row_keys)(key, names))
  assert len(set(map(tuple, keys))) == len(names)


def test_top_1_is_greedy(params):
  prompts = random_prompts(8)
  assert_same(
    answer(params, prompts, Sampling(top_k=1)),
    answer(params, prompts, sampling.greedy()),
  )


def test_nothing_follows_the_end(params):
  choices = [[[5, END], [6, 7, END]]] * 8
  replies = answer(params, random_prompts(8), choices=choices)
  assert {len(r.tokens) for r in replies} == {2, 3}
  for reply in replies:
    assert reply.tokens.tolist() in choices[0]
    assert reply.tokens.size == reply.log_probs.size


def test_rows_do_not_see_each_other(params):
  """Same name, same bits, whatever stands in the other rows."""
  prompts = random_prompts(4)
  alone = answer(params, prompts)
  others = random_prompts(12, seed=5)
  batcher = Batcher(MODEL, SHAPES, Sampling(), params, jax.random.key(1))
  for i, other in enumerate(others):
    batcher.submit(RequestId(100 + i, 0), other)
    if i % 3 == 0:  # in other places, and among other neighbours
      batcher.submit(RequestId(i // 3, 0), prompts[i // 3])
  replies = batcher.drain()
  assert len(replies) == 16
  assert_same([replies[RequestId(i, 0)] for i in range(4)], alone)


@pytest.mark.parametrize(
  'changes',
  [
    {'prompt_buckets': (4, 16), 'max_choices': 0},
    {'chunk': 1},
    {'rows': 3, 'prefill_buckets': (2,), 'chunk': 8, 'prefill_rows': 9},
  ],
)
def test_shapes_change_nothing(params, changes):
  prompts = random_prompts(9)
  shapes = dataclasses.replace(SHAPES, **changes)
  other = answer(params, prompts, shapes=shapes)
  assert_same(other, answer(params, prompts), atol=1e-5)


def test_keys_decide_the_reply(params):
  replies = answer(params, [[5, 6, 7]] * 8)
  assert len({tuple(r.tokens) for r in replies}) > 1


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
  prompts = random_prompts(40)
  replies = answer(params, prompts, choices=choices)
  for row, reply in zip(choices, replies, strict=True):
    assert not row or reply.tokens.tolist() in row
  free = answer(params, prompts[:8])
  np.testing.assert_array_equal(replies[7].tokens, free[7].tokens)
  # The log-probs are those of the choice among what is allowed.
  single = answer(params, prompts[:2], choices=[[[3, END]]] * 2)
  assert all((r.log_probs == 0).all() for r in single)


@pytest.mark.parametrize(
  'model',
  [
    pytest.param(MODEL.replace(max_unrolled=0), id='deep'),
    pytest.param(
      small_model(40, 16, 32, 2, 4, 2, 8, architecture='qwen3'), id='qwen3'
    ),
  ],
)
def test_other_models_decode_as_they_read(model):
  """A deep one is not unrolled where it reads."""
  params = jax.jit(model.init)(jax.random.key(0))
  params = jax.tree.map(lambda a: a * 10 if a.ndim > 2 else a, params)
  prompts = random_prompts(6)
  replies = answer(params, prompts, sampling.greedy(), model=model)
  for prompt, got in zip(prompts, replies, strict=True):
    expected = slow_loop(params, prompt, lambda s, _: np.argmax(s), model)
    assert got.tokens.tolist() == expected[0]
    np.testing.assert_allclose(got.log_probs, expected[1], atol=2e-5)
