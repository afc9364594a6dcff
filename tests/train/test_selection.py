"""Selection against brute force, and trackers against their closed forms."""

import itertools

import numpy as np
import pytest

from hgpo_jax.train import selection


def test_groups_without_spread_do_not_teach():
  groups = np.array([0, 1, 2, 0, 1, 2, 3])
  third = 1 / 3  # whose mean over a group is not exact
  scores = np.array([third, 0, third, third, 1, third + 1e-9, 1])
  np.testing.assert_array_equal(
    selection.informative(scores, groups), [False, True, True, False]
  )
  assert selection.informative(np.zeros(0), np.zeros(0, int)).size == 0


@pytest.mark.parametrize(
  ('kept', 'played', 'expected'),
  [
    (0, 0, 16),  # nothing is known yet
    (16, 20, 0),
    (20, 20, 0),
    (8, 16, 16),  # half of them teach
    (12, 16, 6),  # 4 / 0.75
    (0, 16, 48),  # the limit
    (2, 60, 4),
    (3, 64, 0),  # and no further
  ],
)
def test_refill_plays_what_is_missing(kept, played, expected):
  plan = selection.groups_to_play(kept, played, wanted=16, limit=64)
  assert plan == expected


def test_refill_refuses_what_cannot_be():
  with pytest.raises(ValueError, match='no more than that'):
    selection.groups_to_play(3, 2, wanted=4, limit=8)
  with pytest.raises(ValueError, match='no more than that'):
    selection.groups_to_play(0, 0, wanted=9, limit=8)


def test_refill_ends_with_enough_groups_or_at_the_limit():
  rng = np.random.default_rng(0)
  for share in (0.05, 0.5, 1.0):
    kept = played = 0
    while more := selection.groups_to_play(kept, played, wanted=16, limit=200):
      kept += int(rng.binomial(more, share))
      played += more
    assert kept >= 16 or played == 200
    assert played < 3 * 16 / share


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('count', [1, 2, 5, 9])
def test_most_varied_matches_brute_force(seed, count):
  rng = np.random.default_rng(seed)
  values = rng.normal(size=9) if seed else rng.integers(0, 3, 9).astype(float)
  chosen = selection.most_varied(values + 100, count)
  assert chosen.sum() == count
  best = max(np.var(c) for c in itertools.combinations(values, count))
  assert np.var(values[chosen]) == pytest.approx(best, abs=1e-9)


def test_most_varied_by_hand():
  values = np.array([0.0, 5, -1, 4.5, 0, 0])
  np.testing.assert_array_equal(
    selection.most_varied(values, 3), [0, 1, 1, 1, 0, 0]
  )
  assert selection.most_varied(values, 8).all()
  with pytest.raises(ValueError, match='at least 1'):
    selection.most_varied(values, 0)


def test_weightiest_tokens_match_a_sort():
  rng = np.random.default_rng(0)
  advantages = rng.normal(size=4)
  entropy = rng.exponential(size=(4, 5))
  mask = np.arange(5) < np.array([5, 3, 0, 4])[:, None]
  kept = selection.weightiest_tokens(advantages, entropy, mask, 0.4)
  weight = (np.abs(advantages)[:, None] * entropy)[mask]
  assert kept[~mask].sum() == 0
  assert kept.sum() == 5
  assert weight[kept[mask]].min() > weight[~kept[mask]].max()
  spoilt = np.where(mask, entropy, np.nan)
  wide = np.broadcast_to(advantages[:, None], mask.shape)
  np.testing.assert_array_equal(
    selection.weightiest_tokens(wide, spoilt, mask, 0.4), kept
  )
  every = selection.weightiest_tokens(advantages, entropy, mask, 1.0)
  np.testing.assert_array_equal(every, mask)
  with pytest.raises(ValueError, match='share=0'):
    selection.weightiest_tokens(advantages, entropy, mask, 0)


def test_annealing_is_linear():
  values = [selection.annealed(p, 0.2, 0.8) for p in (0, 0.5, 1)]
  assert values == pytest.approx([0.2, 0.5, 0.8])


def test_the_tracker_counts_and_forgets():
  tracker = selection.new_tracker(3, prior=4)
  once = selection.observed(
    tracker, np.array([1, 1, 2]), np.array([1, 0, 1]), decay=0.875
  )
  np.testing.assert_allclose(once.wins, [4, 4.5, 4.5])
  np.testing.assert_allclose(once.losses, [4, 4.5, 3.5])
  np.testing.assert_allclose(once.rate(), [0.5, 0.5, 4.5 / 8])
  np.testing.assert_array_equal(tracker.wins, 4)  # the old one is as it was
  for _ in range(200):
    once = selection.observed(once, np.array([0, 0]), np.ones(2), decay=0.5)
  assert once.wins[0] == pytest.approx(2 / (1 - 0.5))
  assert once.rate()[0] == pytest.approx(1)


def test_without_decay_the_rate_is_that_of_all_episodes():
  rng = np.random.default_rng(0)
  tracker, tasks = selection.new_tracker(5), rng.integers(0, 5, 60)
  won = rng.integers(0, 2, 60)
  for part in np.split(np.arange(60), 6):
    tracker = selection.observed(tracker, tasks[part], won[part])
  for task in range(5):
    own = won[tasks == task]
    expected = (own.sum() + 1) / (own.size + 2)
    assert tracker.rate()[task] == pytest.approx(expected)


def test_weights_are_largest_for_an_even_chance():
  rate = np.array([0.0, 0.1, 0.5, 1.0])
  np.testing.assert_allclose(
    selection.WEIGHTS['spread'](rate), [0.05, 0.35, 0.55, 0.05]
  )
  np.testing.assert_allclose(
    selection.WEIGHTS['variance'](rate), [0, 0.09, 0.25, 0]
  )


def test_draws_follow_the_weights_and_the_seed():
  weights = np.array([0.0, 1, 3, 6])
  draws = [selection.drawn(weights, 2, (0, i)) for i in range(4000)]
  assert all(len(set(d)) == 2 and 0 not in d for d in draws)
  first = np.bincount([d[0] for d in draws], minlength=4) / 4000
  np.testing.assert_allclose(first, weights / 10, atol=0.03)
  np.testing.assert_array_equal(draws[7], selection.drawn(weights, 2, (0, 7)))
  with pytest.raises(ValueError, match='play fewer'):
    selection.drawn(weights, 4, (0,))
