"""Task numbers: pure, fresh where unbounded, even where bounded."""

import collections

import pytest

from hgpo_jax.train import tasks


def test_unbounded_tasks_are_fresh_and_differ_by_seed():
  seen = [n for step in range(50) for n in tasks.train_tasks(0, step, 16, None)]
  other = [
    n for step in range(50) for n in tasks.train_tasks(1, step, 16, None)
  ]
  shown = tasks.demonstration_tasks(0, 500, None)
  assert len(set(seen)) == len(seen)
  assert not set(seen) & set(other)
  assert not set(seen) & set(shown)


def test_bounded_tasks_are_visited_equally_often():
  seen = [n for step in range(21) for n in tasks.train_tasks(0, step, 5, 7)]
  assert set(collections.Counter(seen).values()) == {15}
  assert seen[:7] != seen[7:14]  # another order in every epoch
  assert tasks.train_tasks(0, 9, 5, 7) == tasks.train_tasks(0, 9, 5, 7)


def test_demonstrations_of_a_bounded_split_come_in_an_order_of_their_own():
  shown = tasks.demonstration_tasks(0, 14, 7)
  assert sorted(shown[:7]) == list(range(7))
  assert shown[:7] != tasks.train_tasks(0, 0, 7, 7)


def test_evaluation_plays_each_game_once():
  assert tasks.eval_tasks(0, 140, 'valid') == list(range(140))
  assert tasks.eval_tasks(512, 140, 'valid') == list(range(140))
  assert tasks.eval_tasks(4, None, 'valid') == [0, 1, 2, 3]
  with pytest.raises(ValueError, match='unbounded'):
    tasks.eval_tasks(0, None, 'valid')
  with pytest.raises(ValueError, match="no games of the split 'vaild'"):
    tasks.eval_tasks(4, 0, 'vaild')


def test_an_empty_split_is_refused():
  with pytest.raises(ValueError, match='no task'):
    tasks.train_tasks(0, 0, 4, 0)
