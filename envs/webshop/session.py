"""One shopper's way through the shop: a state goes in with an action.

  search[words]   from any page
  click[name]     of what the page has, the search button excepted

All else leaves the page as it is.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from envs.webshop import pages
from envs.webshop.goals import Goal
from envs.webshop.pages import Page
from envs.webshop.reward import Reward
from envs.webshop.shop import Shop

_ACTION = re.compile(r'(.+)\[(.+)\]')


@dataclasses.dataclass(frozen=True)
class Session:
  """Where a shopper is.

  Attributes:
    goal: what to find.
    page: what is seen.
    kind: 'start', 'results', 'item', 'sub' or 'done'.
    words: the last search.
    number: page of its results, from 1.
    row: the product that is looked at.
    chosen: option name -> value, in the order of clicks.
    reward: of a purchase.
  """

  goal: Goal
  page: Page
  kind: str = 'start'
  words: str = ''
  number: int = 1
  row: int = -1
  chosen: Mapping[str, str] = dataclasses.field(default_factory=dict)
  reward: Reward | None = None


def start(goal: Goal) -> Session:
  """Returns the start page of an episode."""
  return Session(goal, pages.start_page(goal.instruction))


def act(shop: Shop, session: Session, action: str) -> Session:
  """Returns where an action leads; the same session where it does nothing."""
  match = _ACTION.match(action)
  if not match:
    return session
  name, argument = match.group(1), match.group(2).lower()
  if name == 'search':
    return _results(shop, session, argument, 1)
  if name == 'click' and argument in session.page.clickables:
    return _click(shop, session, argument)
  return session


def _click(shop: Shop, session: Session, name: str) -> Session:
  """Follows a click; a button's name goes before an option of that name."""
  if name == pages.SEARCH.lower():
    return session
  if name == pages.BACK.lower():
    return start(session.goal)
  if session.kind == 'results':
    turns = {pages.NEXT.lower(): 1, pages.PREV.lower(): -1}
    if name in turns:
      number = session.number + turns[name]
      return _results(shop, session, session.words, number)
    rows = _shown(shop, session.words, session.number)
    linked = [x for x in rows if shop.product(x).asin.lower() == name]
    return _item(shop, session, linked[0], {})
  if name == pages.BUY.lower():
    return _buy(shop, session)
  if name == pages.PREV.lower():
    if session.kind == 'sub':
      return _item(shop, session, session.row, session.chosen)
    return _results(shop, session, session.words, session.number)
  for sub in pages.SUB_PAGES:
    if name == sub.lower():
      product = shop.product(session.row)
      page = pages.sub_page(session.goal.instruction, product, sub)
      return dataclasses.replace(session, page=page, kind='sub')
  return _choose(shop, session, name)


def _results(shop: Shop, session: Session, words: str, number: int) -> Session:
  page = pages.results_page(
    session.goal.instruction,
    [shop.product(row) for row in _shown(shop, words, number)],
    number,
    len(shop.find(words)),
  )
  return Session(session.goal, page, 'results', words, number)


def _shown(shop: Shop, words: str, number: int) -> tuple[int, ...]:
  """Rows of the products on a page of results."""
  first = (number - 1) * shop.per_page
  return shop.find(words)[first : first + shop.per_page]


def _item(
  shop: Shop, session: Session, row: int, chosen: Mapping[str, str]
) -> Session:
  page = pages.item_page(session.goal.instruction, shop.product(row))
  return dataclasses.replace(
    session, page=page, kind='item', row=row, chosen=chosen
  )


def _choose(shop: Shop, session: Session, value: str) -> Session:
  """Sets the option that has the value; the last one where several have."""
  options = shop.product(session.row).options
  name = [name for name, values in options.items() if value in values][-1]
  return dataclasses.replace(session, chosen={**session.chosen, name: value})


def _buy(shop: Shop, session: Session) -> Session:
  reward = shop.judge(session.row, session.chosen, session.goal)
  asin = shop.product(session.row).asin
  page = pages.done_page(asin, session.chosen, reward.total)
  return dataclasses.replace(session, page=page, kind='done', reward=reward)
