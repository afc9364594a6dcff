"""The slots: nobody is lost, nothing is read twice, little is compiled."""

import dataclasses

import jax
import numpy as np
import pytest

from hgpo_jax.sampler import batcher as batcher_lib
from hgpo_jax.sampler.batcher import Batcher, RequestId
from hgpo_jax.sampler.decode import DecodeShapes
from hgpo_jax.sampler.sampling import Sampling
from hgpo_jax.train.compilations import Compilations
from tests.small_decoder import CONFIG, END, PLAN, R, random_prompts


def make(params, plan=PLAN, sampling=None, counts=None):
  key = jax.random.key(1)
  return Batcher(CONFIG, plan, sampling or Sampling(), params, key, counts)


def test_requests_come_and_go_at_any_time(params):
  """Random arrivals; every request_id is answered once, as if it were alone."""
  prompts = random_prompts(40)
  together = make(params)
  for i, prompt in enumerate(prompts):
    together.submit(RequestId(i, i % 3), prompt)
  expected = together.drain()
  rng = np.random.default_rng(0)
  queue = list(enumerate(prompts))
  slots, replies = make(params), []
  while queue or slots.busy:
    slots.start()
    for _ in range(min(rng.integers(4), len(queue))):
      i, prompt = queue.pop()
      slots.submit(RequestId(i, i % 3), prompt)
    slots.start()  # of no effect while a chunk is under way
    replies += slots.finished()
  assert sorted(r.request_id for r in replies) == sorted(expected)
  for reply in replies:
    np.testing.assert_array_equal(
      reply.tokens, expected[reply.request_id].tokens
    )


def test_equal_prompts_are_read_once(params):
  slots = make(params)
  first, second = [5, 6, 7, 8], [5, 6, 7, 9]
  for i, prompt in enumerate([first, first, second, first]):
    slots.submit(RequestId(i, 0), prompt)
  replies = slots.drain()
  assert (slots.counts.prompts, slots.counts.prefilled) == (4, 2)
  for i, prompt in enumerate([first, first, second, first]):
    alone = make(params)
    alone.submit(RequestId(i, 0), prompt)
    np.testing.assert_array_equal(
      alone.drain()[RequestId(i, 0)].tokens, replies[RequestId(i, 0)].tokens
    )


def test_a_free_slot_is_used_while_others_decode(params):
  """A short reply makes room for the next request before a long one ends."""
  plan = dataclasses.replace(PLAN, chunk=1, prefill_rows=1)
  slots = make(params, plan)
  for i in range(3):
    slots.submit(RequestId(i, 0), [4, 5], [[3, 3, 3, 3, END]])
  for i in range(3, 5):
    slots.submit(RequestId(i, 0), [6, 7], [[END]])
  order = []
  while slots.busy:
    slots.start()
    order += [r.request_id.episode for r in slots.finished()]
  assert order == [3, 4, 0, 1, 2]


def test_few_prompts_wait_for_more_while_others_decode(params):
  plan = dataclasses.replace(PLAN, chunk=1, prefill_rows=3)
  slots = make(params, plan)
  long = [[3, 3, 3, 3, END]]
  slots.submit(RequestId(0, 0), [4, 5], long)
  slots.submit(RequestId(1, 0), [4, 5], long)
  slots.start()
  slots.submit(RequestId(2, 0), [6, 7])  # 1 of 3: not even half of them
  slots.finished()
  slots.start()
  assert slots.counts.prompts == 2
  slots.submit(RequestId(3, 0), [6, 7])
  slots.finished()
  slots.start()
  assert slots.counts.prompts == 4
  assert len(slots.finished() + list(slots.drain().values())) == 4


def test_a_limit_ends_a_reply(params):
  slots = make(params)
  for i in range(8):
    slots.submit(RequestId(i, 0), [5, 6], [[3, 3, 3, 3, END]], limit=i or None)
  sizes = [r.tokens.size for _, r in sorted(slots.drain().items())]
  assert sizes == [R, 1, 2, 3, 4, R, R, R]
  assert slots.counts.tokens == sum(sizes)


def test_compilations_are_bounded_and_shared(params):
  plan = dataclasses.replace(
    PLAN, prompt_buckets=(7, 15), prefill_buckets=(4,), max_choices=0
  )
  counts = batcher_lib.Counts()
  seen = []
  make(params, plan)  # its key and its empty slots
  with Compilations() as compilations:
    for round_ in range(8):
      slots = make(params, plan, Sampling(1.0 / (1 + round_)), counts)
      for i, prompt in enumerate(random_prompts(9, round_, longest=15)):
        slots.submit(RequestId(i, 0), prompt)
      slots.drain()
      seen.append(compilations.count)
  assert plan.max_shapes(1) == 2 * 1 + 2
  assert seen[-1] == len(counts.shapes) <= plan.max_shapes(1)
  assert seen[3] == seen[-1]


def test_long_prompts_lose_their_first_tokens(params):
  slots, prompt = make(params), list(range(2, 22))
  slots.submit(RequestId(0, 0), prompt)
  long = slots.drain()[RequestId(0, 0)]
  assert slots.counts.truncated == 1
  assert long.prompt.tolist() == prompt[-8:]  # what was really read
  again = make(params)
  again.submit(RequestId(0, 0), prompt[-8:])
  short = again.drain()[RequestId(0, 0)]
  assert again.counts.truncated == 0
  np.testing.assert_array_equal(long.tokens, short.tokens)


def test_misfit_requests_are_refused(params):
  slots, request_id = make(params), RequestId(0, 0)
  with pytest.raises(ValueError, match='empty'):
    slots.submit(request_id, [])
  with pytest.raises(ValueError, match='max_reply=5'):
    slots.submit(request_id, [3], [[2, 3, 4, 5, 6, END]])
  with pytest.raises(ValueError, match='end_id=1'):
    slots.submit(request_id, [3], [[2, 3]])
  with pytest.raises(ValueError, match='choice_buckets'):
    slots.submit(request_id, [3], [[2, END]] * 5)
  assert not slots.busy


def test_impossible_plans_are_refused():
  with pytest.raises(ValueError, match='chunk=0'):
    dataclasses.replace(PLAN, chunk=0)
  with pytest.raises(ValueError, match='prompt_buckets'):
    dataclasses.replace(PLAN, prompt_buckets=())
  assert (
    DecodeShapes(**{**vars(PLAN), 'prompt_buckets': (9, 2)}).columns == 9 + R
  )
