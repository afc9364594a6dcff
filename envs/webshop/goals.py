"""What shoppers are asked to find: drawn prices and bounds, goals in order.

The rules are WebShop's (its `engine/goal.py`). A catalogue's goals are numbered
in file order, for each product one per combination of its options; the order
of play is one shuffle of those numbers. So a million products need no list of
their ten million goals: a goal is made when it is asked for.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from envs.webshop.catalog import Product

_BOUNDS = [10.0 * i for i in range(1, 100)]  # dollars
NO_BOUND = 1_000_000.0  # of a product that is too dear for two bounds above it


class Goal(NamedTuple):
  """What an episode asks for.

  Attributes:
    asin: the product that the goal was made from.
    instruction: the text that the agent reads.
    attributes: what a bought product should have.
    options: (name, value) pairs, or values alone where a person wrote the goal.
    price_upper: dollars; a bought product should cost no more.
    category, query, product_category, title: of the product.
  """

  asin: str
  instruction: str
  attributes: tuple[str, ...]
  options: tuple[tuple[str, str] | str, ...]
  price_upper: float
  category: str
  query: str
  product_category: str
  title: str


class Drawn(NamedTuple):
  """What chance decides of a product: dollars that it costs, and the bound.

  People's instructions have a bound each; all others share the first.
  """

  price: float
  bounds: tuple[float, ...]


def draw_price(prices: Sequence[float], rng: random.Random) -> float:
  """Draws from a range, both ends as given; one price is itself."""
  return prices[0] if len(prices) == 1 else rng.uniform(prices[0], prices[1])


def draw_bound(price: float, rng: random.Random) -> float:
  """The larger of two of the first four tens above the price, up to 990."""
  above = [bound for bound in _BOUNDS if bound > price][:4]
  return max(rng.sample(above, 2)) if len(above) >= 2 else NO_BOUND


def num_goals(product: Product, human: bool) -> int:
  """How many goals a product has, synthetic ones or people's."""
  if human:
    return len(product.human)
  if not product.instruction:
    return 0
  return math.prod(len(values) for values in product.options.values())


def make_goal(
  product: Product, number: int, bounds: Sequence[float], human: bool
) -> Goal:
  """Makes the `number`-th goal of a product."""
  if human:
    written = product.human[number]
    bound = bounds[number]
    text, attributes = written.text.strip('.'), written.attributes
    options: tuple[tuple[str, str] | str, ...] = written.options
  else:
    bound, attributes = bounds[0], product.instruction_attributes
    pairs = _combination(product.options, number)
    listed = ', and '.join(f'{name}: {value}' for name, value in pairs)
    text = product.instruction + (f' with {listed}' if listed else '')
    options = pairs
  if bound < NO_BOUND:
    text += f', and price lower than {bound:.2f} dollars'
  return Goal(
    asin=product.asin,
    instruction=text,
    attributes=attributes,
    options=options,
    price_upper=bound,
    category=product.category,
    query=product.query,
    product_category=product.product_category,
    title=product.title,
  )


def _combination(
  options: Mapping[str, Sequence[str]], number: int
) -> tuple[tuple[str, str], ...]:
  """The `number`-th element of the product over sorted names, last fastest."""
  pairs = []
  for name in sorted(options, reverse=True):
    number, digit = divmod(number, len(options[name]))
    pairs.append((name, options[name][digit]))
  return tuple(reversed(pairs))


class GoalOrder(NamedTuple):
  """Where the goals of a catalogue are.

  Attributes:
    starts: `[M + 1]` int64, number of the first goal of each of M products.
    order: `[G]` int64, the goal's number at each place of the shuffle.
  """

  starts: np.ndarray
  order: np.ndarray

  def find(self, place: int) -> tuple[int, int]:
    """Returns the product's row and which of its goals is at a place."""
    number = self.order[place]
    row = int(np.searchsorted(self.starts, number, side='right')) - 1
    return row, int(number - self.starts[row])


def order_goals(counts: Iterable[int], seed: int) -> GoalOrder:
  """Shuffles as WebShop does: one `random.Random(seed).shuffle` of them all."""
  starts = np.cumsum([0, *counts], dtype=np.int64)
  order = list(range(starts[-1]))
  random.Random(seed).shuffle(order)
  return GoalOrder(starts, np.array(order, np.int64))
