"""Records that cross modules: what they compute of themselves."""

import types as python_types

from hgpo_jax import types


def test_sums_are_rounded_in_their_order_on_every_python():
  assert types.ordered_sum([0.1] * 10) == 0.9999999999999999
  assert types.ordered_sum([1.0, 1e100, 1.0, -1e100]) == 0.0
  assert types.ordered_sum([]) == 0


def test_the_reward_of_an_episode_is_the_sum_of_its_turns():
  turns = tuple(python_types.SimpleNamespace(reward=0.1) for _ in range(10))
  episode = types.Trajectory('task', turns, won=True, truncated=False)
  assert episode.total_reward == 0.9999999999999999
