"""Packed rows against the turns that they were made of."""

import numpy as np
import pytest

from experiments.configs import alfworld_tiny
from hgpo_jax import types
from hgpo_jax.train import build, packing

SHAPES = packing.Shapes(
  tokens=12, replies=6, turns=3, rows=2, reply=3, choices=(2, 4)
)


def turn(prompt, reply, choices=(), start=1):
  return types.Turn(
    prompt=np.arange(start, start + prompt, dtype=np.int32),
    reply=np.arange(50, 50 + reply, dtype=np.int32),
    log_probs=-np.ones(reply, np.float32),
    choices=choices,
    observation='o',
    action='a',
    valid=True,
    reward=0.0,
  )


def random_turns(count, seed=0):
  rng = np.random.default_rng(seed)
  return [
    turn(rng.integers(1, 11), rng.integers(1, 4), start=100 * n)
    for n in range(count)
  ]


def plan_of(turns, index=None, shapes=SHAPES, micro=None):
  index = np.arange(len(turns)) if index is None else np.asarray(index)
  flat = packing.flatten(turns, shapes)
  micro = micro or shapes.micro_batches(len(index))
  return packing.pack(flat, index, shapes, micro)


def unpacked(plan, shapes=SHAPES):
  """Reads every turn back: number -> (its tokens, its reply)."""
  found = {}
  rows = plan.rows
  for m, n in zip(*np.nonzero(plan.turn >= 0), strict=True):
    row, slot = divmod(n, shapes.turns)
    own = rows.segments[m, row] == slot + 1
    place = plan.place[m, n][plan.place[m, n] >= 0]
    at = rows.at[m, row][place]
    assert own[at].all()
    assert at[-1] == np.flatnonzero(own)[-1]
    reply = rows.targets[m, row][place]
    # What a column predicts stands in the next, but for the last token.
    np.testing.assert_array_equal(rows.tokens[m, row][at[:-1] + 1], reply[:-1])
    found[plan.turn[m, n]] = (rows.tokens[m, row][own], reply)
  return found


def test_every_turn_comes_back_once():
  turns = random_turns(40)
  index = np.random.default_rng(1).permutation(40)[:30]
  plan = plan_of(turns, index)
  found = unpacked(plan)
  assert sorted(found) == sorted(index)
  for n, (tokens, reply) in found.items():
    whole = np.concatenate([turns[n].prompt, turns[n].reply])
    np.testing.assert_array_equal(tokens, whole[:-1])
    np.testing.assert_array_equal(reply, turns[n].reply)
  held = (plan.turn >= 0).sum()
  assert held == 30 == len(found)
  assert (plan.rows.tokens[plan.rows.segments == 0] == 0).all()
  assert (plan.rows.targets >= 0).sum() == (plan.place >= 0).sum()
  # Those that hold turns come first.
  filled = (plan.turn >= 0).any(axis=1)
  assert (filled == (np.arange(filled.size) < filled.sum())).all()


def test_a_small_row_by_hand():
  allowed = ((50, 51, 9), (50, 7), (8,))
  turns = [turn(4, 2, allowed), turn(3, 1), turn(20, 3)]
  plan = plan_of(turns, micro=1)
  # The longest goes first and loses the head of its prompt.
  assert plan.rows.tokens[0].tolist() == [
    [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 50, 51],
    [1, 2, 3, 4, 50, 1, 2, 3, 0, 0, 0, 0],
  ]
  assert plan.rows.segments[0, 1].tolist() == [1] * 5 + [2] * 3 + [0] * 4
  assert plan.rows.at[0].tolist() == [[9, 10, 11, 0, 0, 0], [3, 4, 7, 0, 0, 0]]
  assert plan.rows.targets[0, 1].tolist() == [50, 51, 50, -1, -1, -1]
  assert plan.rows.choices[0, 1, :3].tolist() == [
    [50, 50, 8, -1],
    [51, 7, -1, -1],  # what begins with 50
    [-1, -1, -1, -1],  # this turn's reply was free
  ]
  assert plan.turn[0].tolist() == [2, -1, -1, 0, 1, -1]
  assert plan.place[0, 3].tolist() == [0, 1, -1]
  assert plan.place[0, 4].tolist() == [2, -1, -1]
  assert packing.flatten(turns, SHAPES).cut == 1


def test_numbers_of_turns_are_laid_out_beside_them():
  turns = random_turns(9)
  plan = plan_of(turns)
  table = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
  batch = plan.batch(table[:, 0], table, -table)
  for m, n in np.ndindex(plan.turn.shape):
    number = plan.turn[m, n]
    expected = table[number] if number >= 0 else np.zeros(3)
    np.testing.assert_array_equal(batch.old_log_probs[m, n], expected)
    np.testing.assert_array_equal(batch.ref_log_probs[m, n], -expected)
    assert batch.advantages[m, n] == expected[0]
  # And back again.
  spread = batch.old_log_probs
  np.testing.assert_array_equal(packing.gathered([plan], [spread], 9), table)


def test_a_turns_one_value_stands_at_its_first_token():
  turns = random_turns(9)
  plan = plan_of(turns)
  table = np.random.default_rng(0).normal(size=(2, 9, 3)).astype(np.float32)
  whole = plan.value_batch(*table)
  np.testing.assert_array_equal(whole.place, plan.place)
  first = plan.value_batch(*table[..., :1])
  np.testing.assert_array_equal(first.place, plan.place[..., :1])
  np.testing.assert_array_equal(first.targets, whole.targets[..., :1])
  assert (first.place >= 0).sum() == 9


def test_first_fit_matches_a_loop_and_keeps_every_capacity():
  rng = np.random.default_rng(0)
  capacity = (30, 12, 4)
  sizes = np.stack(
    [rng.integers(1, 31, 200), rng.integers(1, 5, 200), np.ones(200, int)], 1
  )
  bins = packing.first_fit(sizes, capacity)
  loads, expected = [], {}
  for item in sorted(range(200), key=lambda i: -sizes[i, 0]):
    for b in range(len(loads) + 1):
      if b == len(loads):
        loads.append(np.zeros(3, int))
      if (loads[b] + sizes[item] <= capacity).all():
        loads[b] += sizes[item]
        expected[item] = b
        break
  assert bins.tolist() == [expected[i] for i in range(200)]
  with pytest.raises(ValueError, match='too much'):
    packing.first_fit(np.array([[31, 1, 1]]), capacity)


@pytest.mark.parametrize(
  ('medians', 'spread', 'reply', 'shapes'),
  [
    ((700, 1000, 1400), 0.5, 100, packing.Shapes(4096, 1024, 16, 1, 512, (1,))),
    (
      range(24, 45, 4),
      0.1,
      4,
      build.shapes_of(alfworld_tiny.get_config()),
    ),
  ],
)
def test_at_least_90_percent_are_real_tokens(medians, spread, reply, shapes):
  """Log-normal lengths, in tokens, as ALFWorld's prompts and replies have."""
  rng = np.random.default_rng(0)

  def lengths(median, spread, longest):
    drawn = rng.lognormal(np.log(median), spread, 512)
    return drawn.clip(1, longest).astype(int)

  fills = []
  for median in medians:
    prompts = lengths(median, spread, shapes.tokens - shapes.reply)
    replies = lengths(reply, 0.5, shapes.reply)
    turns = [turn(p, r) for p, r in zip(prompts, replies, strict=True)]
    for part in np.split(rng.permutation(512), 2):
      fills.append(plan_of(turns, part, shapes, 256).fill())
  assert np.mean(fills) >= 0.9


def test_what_does_not_fit_is_told():
  assert [SHAPES.choice_width(n) for n in (0, 1, 3)] == [0, 2, 4]
  with pytest.raises(types.ConfigError, match='choice_buckets=.2, 4.: add a'):
    SHAPES.choice_width(5)
  with pytest.raises(types.ConfigError, match='choice_buckets is .4, 2.'):
    packing.Shapes(12, 6, 3, 2, 3, (4, 2))
  with pytest.raises(types.ConfigError, match='row_replies=2.*max_reply=3'):
    packing.Shapes(12, 2, 3, 2, 3, (2,))
  with pytest.raises(types.ConfigError, match='row_turns=0'):
    packing.Shapes(12, 6, 0, 2, 3, (2,))
  with pytest.raises(ValueError, match='expected micro=5'):
    plan_of([turn(9, 3)] * 9, micro=4)
  with pytest.raises(types.ConfigError, match='4 tokens.*max_reply=3'):
    plan_of([turn(2, 1, choices=((1, 2, 3, 4),))])
