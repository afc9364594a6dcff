"""Goals: the rules by which they are drawn, numbered and shuffled."""

import itertools
import random

import numpy as np
import pytest

from envs.webshop import catalog, generate, goals


def test_bound_is_the_larger_of_two_of_four_tens():
  rng = random.Random(0)
  drawn = [goals.draw_bound(25.0, rng) for _ in range(30_000)]
  values, counts = np.unique(drawn, return_counts=True)
  # Of the six pairs of (30, 40, 50, 60), 1, 2 and 3 have that maximum.
  assert values.tolist() == [40, 50, 60]
  np.testing.assert_allclose(
    counts / len(drawn), [1 / 6, 2 / 6, 3 / 6], atol=0.01
  )


@pytest.mark.parametrize(
  ('price', 'possible'),
  [(0.5, {20, 30, 40}), (10.0, {30, 40, 50}), (975.0, {990}), (980.0, {1e6}),
   (5000.0, {1e6})],
)  # fmt: skip
def test_bounds_at_the_edges(price, possible):
  rng = random.Random(1)
  assert {goals.draw_bound(price, rng) for _ in range(200)} == possible


def test_price_is_uniform_in_its_range():
  rng = random.Random(0)
  assert goals.draw_price((7.5,), rng) == 7.5
  drawn = np.sort([goals.draw_price((10.0, 30.0), rng) for _ in range(20_000)])
  uniform = np.linspace(10, 30, len(drawn))
  assert np.abs(drawn - uniform).max() < 0.3  # Kolmogorov-Smirnov, 1.5 %
  assert goals.draw_price((30.0, 10.0), rng) < 30  # a range may run downwards


def test_goals_run_over_the_product_of_sorted_options():
  product = next(generate.generate_products(1, seed=0))._replace(
    options={'size': ('s', 'm'), 'color': ('red', 'blue', 'tan')}
  )
  assert goals.num_goals(product, human=False) == 6
  found = [goals.make_goal(product, k, [40.0], human=False) for k in range(6)]
  assert [goal.options for goal in found] == [
    (('color', color), ('size', size))
    for color, size in itertools.product(('red', 'blue', 'tan'), ('s', 'm'))
  ]
  assert found[1].instruction.endswith(
    ' with color: red, and size: m, and price lower than 40.00 dollars'
  )


def test_goal_without_options_or_bound_is_the_instruction():
  product = next(generate.generate_products(1, seed=0))._replace(options={})
  goal = goals.make_goal(product, 0, [goals.NO_BOUND], human=False)
  assert goal.instruction == product.instruction
  assert goal.options == ()
  silent = product._replace(instruction='')
  assert goals.num_goals(silent, human=False) == 0


def test_people_s_goals_have_a_bound_each():
  written = catalog.HumanGoal('i want it.', ('soft',), ('red',))
  product = next(generate.generate_products(1, seed=0))._replace(
    human=(written, written)
  )
  assert goals.num_goals(product, human=True) == 2
  goal = goals.make_goal(product, 1, [20.0, 30.0], human=True)
  assert goal.instruction == 'i want it, and price lower than 30.00 dollars'
  assert (goal.attributes, goal.options) == (('soft',), ('red',))


def test_order_is_a_shuffle_of_all():
  order = goals.order_goals([2, 0, 3], seed=7)
  expected = [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
  random.Random(7).shuffle(expected)
  assert [order.find(place) for place in range(5)] == expected
