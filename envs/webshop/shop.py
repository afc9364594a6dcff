"""A shop: products, goals and their search index, in arrays to be shared.

A catalogue is packed once into flat arrays, the products themselves as JSON
texts in one of them. What is asked for is taken from there, so that a process
holds of a million products only those that it has looked at.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from envs.webshop import postings, search
from envs.webshop.catalog import HumanGoal, Product
from envs.webshop.goals import (
  Drawn,
  Goal,
  GoalOrder,
  draw_bound,
  draw_price,
  make_goal,
  num_goals,
  order_goals,
)
from envs.webshop.nouns import Nouns
from envs.webshop.pages import PER_PAGE
from envs.webshop.postings import Postings
from envs.webshop.reward import OptionHits, Reward, judge

RESULTS = 50  # products that a search finds at most


class Packed(NamedTuple):
  """A catalogue of M products as arrays.

  Attributes:
    text: `[*]` uint8, the products in JSON, one after the other.
    text_starts: `[M + 1]` int64, where each begins there.
    prices: `[M]` float64, dollars.
    bounds: `[*]` float64, dollars; those of each product's goals.
    bound_starts: `[M + 1]` int64, where each product's begin there.
    sections: `[M]` int32, number of the category.
    section_names: `[*]` str, categories by number.
    kinds: `[M]` int32, number of the query.
    kind_names: `[*]` str, queries by number.
    goals: the order of play.
    postings: the index of the products' texts.
  """

  text: np.ndarray
  text_starts: np.ndarray
  prices: np.ndarray
  bounds: np.ndarray
  bound_starts: np.ndarray
  sections: np.ndarray
  section_names: np.ndarray
  kinds: np.ndarray
  kind_names: np.ndarray
  goals: GoalOrder
  postings: Postings


def pack(
  products: Iterable[Product],
  draw: Callable[[Product], Drawn],
  *,
  human: bool = False,
  seed: int = 0,
) -> Packed:
  """Packs a catalogue, reading it once.

  Args:
    products: in the order that numbers their goals.
    draw: a product's price and bounds, such as `draw_for(seed, human)`.
    human: whether the goals are those of people.
    seed: of the shuffle.
  """
  texts, drawn, counts = bytearray(), [], []
  ends = [0]
  sections: dict[str, int] = {}
  kinds: dict[str, int] = {}
  codes = []

  def documents() -> Iterator[tuple[str, str]]:
    for product in products:
      texts.extend(json.dumps(product).encode('ascii'))
      ends.append(len(texts))
      drawn.append(draw(product))
      counts.append(num_goals(product, human))
      codes.append(
        (
          sections.setdefault(product.category, len(sections)),
          kinds.setdefault(product.query, len(kinds)),
        )
      )
      yield product.asin, document(product)

  built = postings.build(documents())
  numbers = np.array(codes, np.int32).reshape(-1, 2)
  return Packed(
    text=np.frombuffer(texts, np.uint8),
    text_starts=np.array(ends),
    prices=np.array([one.price for one in drawn]),
    bounds=np.array([bound for one in drawn for bound in one.bounds]),
    bound_starts=np.cumsum([0, *(len(one.bounds) for one in drawn)]),
    sections=numbers[:, 0],
    section_names=np.array(list(sections)),
    kinds=numbers[:, 1],
    kind_names=np.array(list(kinds)),
    goals=order_goals(counts, seed),
    postings=built,
  )


def document(product: Product) -> str:
  """The text by which a product is found."""
  options = ', and '.join(
    f'{name}: {", ".join(values)}' for name, values in product.options.items()
  )
  texts = (product.title, product.description, product.bullets[0], options)
  return ' '.join(texts)


def draw_for(seed: int, human: bool) -> Callable[[Product], Drawn]:
  """Draws prices and bounds by WebShop's rules, each product by itself."""

  def draw(product: Product) -> Drawn:
    rng = random.Random(f'webshop price {seed} {product.asin}')
    price = draw_price(product.prices, rng)
    bounds = len(product.human) if human else 1
    return Drawn(price, tuple(draw_bound(price, rng) for _ in range(bounds)))

  return draw


class Shop:
  """A packed catalogue, and how purchases are judged."""

  def __init__(
    self,
    packed: Packed,
    nouns: Nouns,
    option_hits: OptionHits,
    human: bool,
    per_page: int = PER_PAGE,
  ):
    self._packed, self._human, self.per_page = packed, human, per_page
    self._nouns, self._option_hits = nouns, option_hits
    # Episodes of a group see the same pages, and paging searches again.
    self.product = functools.lru_cache(maxsize=4096)(self._read)
    self.find = functools.lru_cache(maxsize=4096)(self._find)

  @property
  def postings(self) -> Postings:
    """The search index."""
    return self._packed.postings

  @property
  def num_goals(self) -> int:
    """How many goals there are."""
    return len(self._packed.goals.order)

  def goal(self, place: int) -> Goal:
    """Returns the goal at a place of the order of play."""
    row, number = self._packed.goals.find(place)
    start, end = self._packed.bound_starts[row : row + 2]
    bounds = self._packed.bounds[start:end].tolist()
    return make_goal(self.product(row), number, bounds, self._human)

  def judge(self, row: int, chosen: Mapping[str, str], goal: Goal) -> Reward:
    """Returns what buying a product with some options is worth."""
    price = float(self._packed.prices[row])
    product = self.product(row)
    return judge(product, goal, price, chosen, self._nouns, self._option_hits)

  def _read(self, row: int) -> Product:
    start, end = self._packed.text_starts[row : row + 2]
    return _unpack(self._packed.text[start:end].tobytes())

  def _find(self, words: str) -> tuple[int, ...]:
    """Searches; `<r>`, `<c>` and `<q>` at the start are WebShop's shortcuts.

    They ask for random products, a category and a query. Here the same search
    finds the same random products again.
    """
    first, *rest = words.split(' ')
    if first == '<r>':
      size = len(self._packed.prices)
      rng = random.Random(f'webshop random {words}')
      return tuple(rng.sample(range(size), min(RESULTS, size)))
    if first == '<c>':
      names, codes = self._packed.section_names, self._packed.sections
      return _rows_of(rest[0].strip() if rest else '', names, codes)
    if first == '<q>':
      names, codes = self._packed.kind_names, self._packed.kinds
      return _rows_of(' '.join(rest).strip(), names, codes)
    hits = search.search(self._packed.postings, words, RESULTS)
    return tuple(hits.rows.tolist())


def _rows_of(
  name: str, names: np.ndarray, codes: np.ndarray
) -> tuple[int, ...]:
  """Rows of the products that a name stands beside."""
  numbers = np.flatnonzero(names == name)
  return tuple(np.flatnonzero(np.isin(codes, numbers)).tolist())


def _unpack(text: bytes) -> Product:
  product = Product(*json.loads(text))
  return product._replace(
    bullets=tuple(product.bullets),
    options={name: tuple(x) for name, x in product.options.items()},
    prices=tuple(product.prices),
    attributes=tuple(product.attributes),
    instruction_attributes=tuple(product.instruction_attributes),
    human=tuple(
      HumanGoal(text, tuple(attributes), tuple(options))
      for text, attributes, options in product.human
    ),
  )
