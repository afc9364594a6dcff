"""No request is lost, nothing is read twice, little is compiled."""

import dataclasses

import jax
import numpy as np
import pytest

from hgpo_jax.sampler import batcher as batcher_lib
from hgpo_jax.sampler.batcher import Batcher, RequestId
from hgpo_jax.sampler.decode import DecodeShapes
from hgpo_jax.sampler.sampling import Sampling
from hgpo_jax.train.compilations import Compilations
from tests.small_decoder import END, MODEL, SHAPES, R, random_prompts


def make(params, shapes=SHAPES, sampling=None, counts=None):
  key = jax.random.key(1)
  return Batcher(MODEL, shapes, sampling or Sampling(), params, key, counts)


def test_requests_come_and_go_at_any_time(params):
  """Random arrivals; every request_id is answered once, as if it were alone."""
  prompts = random_prompts(40)
  together = make(params)
  for i, prompt in enumerate(prompts):
    together.submit(RequestId(i, i % 3), prompt)
  expected = together.drain()
  rng = np.random.default_rng(0)
  queue = list(enumerate(prompts))
  batcher, replies = make(params), []
  while queue or batcher.busy:
    batcher.start()
    for _ in range(min(rng.integers(4), len(queue))):
      i, prompt = queue.pop()
      batcher.submit(RequestId(i, i % 3), prompt)
    batcher.start()  # of no effect while a chunk is under way
    replies += batcher.finished()
  assert sorted(r.request_id for r in replies) == sorted(expected)
  for reply in replies:
    np.testing.assert_array_equal(
      reply.tokens, expected[reply.request_id].tokens
    )


def test_equal_prompts_are_read_once(params):
  batcher = make(params)
  first, second = [5, 6, 7, 8], [5, 6, 7, 9]
  for i, prompt in enumerate([first, first, second, first]):
    batcher.submit(RequestId(i, 0), prompt)
  replies = batcher.drain()
  assert (batcher.counts.prompts, batcher.counts.prefilled) == (4, 2)
  for i, prompt in enumerate([first, first, second, first]):
    alone = make(params)
    alone.submit(RequestId(i, 0), prompt)
    np.testing.assert_array_equal(
      alone.drain()[RequestId(i, 0)].tokens, replies[RequestId(i, 0)].tokens
    )


def test_a_free_slot_is_used_while_others_decode(params):
  """A short reply makes room for the next request before a long one ends."""
  shapes = dataclasses.replace(SHAPES, chunk=1, prefill_rows=1)
  batcher = make(params, shapes)
  for i in range(3):
    batcher.submit(RequestId(i, 0), [4, 5], [[3, 3, 3, 3, END]])
  for i in range(3, 5):
    batcher.submit(RequestId(i, 0), [6, 7], [[END]])
  order = []
  while batcher.busy:
    batcher.start()
    order += [r.request_id.episode for r in batcher.finished()]
  assert order == [3, 4, 0, 1, 2]


def test_few_prompts_wait_for_more_while_others_decode(params):
  shapes = dataclasses.replace(SHAPES, chunk=1, prefill_rows=3)
  batcher = make(params, shapes)
  long = [[3, 3, 3, 3, END]]
  batcher.submit(RequestId(0, 0), [4, 5], long)
  batcher.submit(RequestId(1, 0), [4, 5], long)
  batcher.start()
  batcher.submit(RequestId(2, 0), [6, 7])  # 1 of 3: not even half of them
  batcher.finished()
  batcher.start()
  assert batcher.counts.prompts == 2
  batcher.submit(RequestId(3, 0), [6, 7])
  batcher.finished()
  batcher.start()
  assert batcher.counts.prompts == 4
  assert len(batcher.finished() + list(batcher.drain().values())) == 4


def test_a_limit_ends_a_reply(params):
  batcher = make(params)
  for i in range(8):
    batcher.submit(
      RequestId(i, 0), [5, 6], [[3, 3, 3, 3, END]], limit=i or None
    )
  sizes = [r.tokens.size for _, r in sorted(batcher.drain().items())]
  assert sizes == [R, 1, 2, 3, 4, R, R, R]
  assert batcher.counts.tokens == sum(sizes)


def test_compilations_are_bounded_and_shared(params):
  shapes = dataclasses.replace(
    SHAPES, prompt_buckets=(7, 15), prefill_buckets=(4,), max_choices=0
  )
  counts = batcher_lib.Counts()
  seen = []
  make(params, shapes)  # its key and its empty rows
  with Compilations() as compilations:
    for round_ in range(8):
      batcher = make(params, shapes, Sampling(1.0 / (1 + round_)), counts)
      for i, prompt in enumerate(random_prompts(9, round_, longest=15)):
        batcher.submit(RequestId(i, 0), prompt)
      batcher.drain()
      seen.append(compilations.count)
  assert shapes.max_shapes(1) == 2 * 1 + 2
  assert seen[-1] == len(counts.shapes) <= shapes.max_shapes(1)
  assert seen[3] == seen[-1]


def test_long_prompts_lose_their_first_tokens(params):
  batcher, prompt = make(params), list(range(2, 22))
  batcher.submit(RequestId(0, 0), prompt)
  long = batcher.drain()[RequestId(0, 0)]
  assert batcher.counts.truncated == 1
  assert long.prompt.tolist() == prompt[-8:]  # what was really read
  again = make(params)
  again.submit(RequestId(0, 0), prompt[-8:])
  short = again.drain()[RequestId(0, 0)]
  assert again.counts.truncated == 0
  np.testing.assert_array_equal(long.tokens, short.tokens)


def test_misfit_requests_are_refused(params):
  batcher, request_id = make(params), RequestId(0, 0)
  with pytest.raises(ValueError, match='empty'):
    batcher.submit(request_id, [])
  with pytest.raises(ValueError, match='max_reply=5'):
    batcher.submit(request_id, [3], [[2, 3, 4, 5, 6, END]])
  with pytest.raises(ValueError, match='end_id=1'):
    batcher.submit(request_id, [3], [[2, 3]])
  with pytest.raises(ValueError, match='choice_buckets'):
    batcher.submit(request_id, [3], [[2, END]] * 5)
  assert not batcher.busy


def test_impossible_shapes_are_refused():
  with pytest.raises(ValueError, match='chunk=0'):
    dataclasses.replace(SHAPES, chunk=0)
  with pytest.raises(ValueError, match='prompt_buckets'):
    dataclasses.replace(SHAPES, prompt_buckets=())
  assert (
    DecodeShapes(**{**vars(SHAPES), 'prompt_buckets': (9, 2)}).columns == 9 + R
  )
