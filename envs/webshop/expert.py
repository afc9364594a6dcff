"""An expert that shops: it knows what a purchase is worth before it buys.

It searches for words of the instruction, pages on until a product shows that
is worth all, chooses the options that are asked for and buys. The advice is
what the pages let one do, so that a policy can learn it from them.
"""

from __future__ import annotations

import functools
import random

from envs.webshop import pages
from envs.webshop.catalog import Product
from envs.webshop.fuzzy import token_set_ratio
from envs.webshop.goals import Goal
from envs.webshop.queries import queries
from envs.webshop.session import Session
from envs.webshop.shop import Shop

_ALIKE = 85  # of 100, as in the reward


class Expert:
  """Advises one episode, from whatever state it has come to."""

  def __init__(
    self, shop: Shop, goal: Goal, rng: random.Random, explore: float = 0.0
  ):
    """Takes the shop and the goal.

    Args:
      shop: where to buy.
      goal: what is asked for.
      rng: of the products to look at.
      explore: share of those that it opens, and leaves again, of the products
        which come earlier and are right in all that stands outside their page:
        one who does not know must look whether they have the options.
    """
    self._shop, self._goal = shop, goal
    self._rng, self._explore = rng, explore
    self._left: set[int] = set()  # rows that it has looked at
    self._target = functools.cache(self._find_target)
    self._tempting = functools.cache(self._is_tempting)
    self._worth = functools.cache(self._best_total)

  def act(self, state: Session) -> str:
    """Returns the action to play in a state."""
    if state.kind == 'start':
      return f'search[{self._query}]'
    if state.kind == 'results':
      return f'click[{self._follow(state)}]'
    if state.kind == 'item' and self._worth(state.row) == 1:
      return f'click[{self._order(state)}]'
    if state.kind == 'item' and state.row == self._target(state.words):
      return f'click[{self._order(state)}]'
    if state.kind == 'item':
      self._left.add(state.row)
    return f'click[{pages.PREV.lower()}]'

  @functools.cached_property
  def _query(self) -> str:
    """The first query that finds what is worth all; else the product itself."""
    candidates = queries(self._goal.instruction)
    for query in candidates:
      if self._is_sure(query):
        return query
    able = (x for x in candidates if self._target(x) is not None)
    return next(able, candidates[0])

  def _follow(self, state: Session) -> str:
    """What to click on a page of results."""
    rows, target = self._shop.find(state.words), self._target(state.words)
    if target is None:
      return pages.BACK.lower()
    size = self._shop.per_page
    first, place = (state.number - 1) * size, rows.index(target)
    for row in rows[first : min(first + size, place)]:
      if row not in self._left and self._tempting(row):
        return self._shop.product(row).asin.lower()
    if place >= first + size:
      return pages.NEXT.lower()
    if place < first:
      return pages.PREV.lower()
    return self._shop.product(target).asin.lower()

  def _order(self, state: Session) -> str:
    """An option that is still to be chosen, or the purchase."""
    wanted = picks(self._shop.product(state.row), self._goal)
    for value in wanted:
      if value not in state.chosen.values():
        return value
    return pages.BUY.lower()

  def _find_target(self, words: str) -> int | None:
    """The first result that is worth all, or the goal's own product."""
    rows = self._shop.find(words)
    own = (x for x in rows if self._shop.product(x).asin == self._goal.asin)
    perfect = (row for row in rows if self._worth(row) == 1)
    return next(perfect, next(own, None))

  def _is_sure(self, words: str) -> bool:
    target = self._target(words)
    return target is not None and self._worth(target) == 1

  def _is_tempting(self, row: int) -> bool:
    reward = self._shop.judge(row, {}, self._goal)
    right = reward.attributes == reward.type_factor == 1 and reward.price
    return right and self._rng.random() < self._explore

  def _best_total(self, row: int) -> float:
    chosen = {x: x for x in picks(self._shop.product(row), self._goal)}
    return self._shop.judge(row, chosen, self._goal).total


def picks(product: Product, goal: Goal) -> list[str]:
  """The values to choose for a goal's options, where a product has them."""
  offered = [value for values in product.options.values() for value in values]
  chosen = []
  for option in goal.options:
    wanted = option if isinstance(option, str) else option[1]
    alike = {x: token_set_ratio(x, wanted) for x in offered}
    best = max(alike, key=lambda x: (x == wanted, alike[x]), default='')
    if best and alike[best] > _ALIKE:
      chosen.append(best)
  return chosen
