"""What the shop shows: the texts and what can be clicked, as WebShop has them.

A page is what remains of WebShop's HTML in its text mode: the visible pieces in
order, and the names of its buttons, links and option values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from envs.webshop.catalog import Product

SEARCH, BACK, PREV, NEXT, BUY = (
  'Search', 'Back to Search', '< Prev', 'Next >', 'Buy Now',
)  # fmt: skip
SUB_PAGES = ('Description', 'Features', 'Reviews')
PER_PAGE = 10  # products, in WebShop


class Page(NamedTuple):
  """One page.

  Attributes:
    texts: its visible pieces.
    clickables: names in lower case, each once, in the page's order.
    has_search: whether there is a search bar.
  """

  texts: tuple[str, ...]
  clickables: tuple[str, ...]
  has_search: bool = False

  @property
  def observation(self) -> str:
    """The visible pieces as one text."""
    return ' [SEP] '.join(self.texts)


def start_page(instruction: str) -> Page:
  """The page with the search bar."""
  texts = ('WebShop', 'Instruction:', instruction, SEARCH)
  return Page(_visible(texts), (SEARCH.lower(),), has_search=True)


def results_page(
  instruction: str, shown: Sequence[Product], number: int, total: int
) -> Page:
  """Page `number` of a search's results; it always offers a next one."""
  buttons = [BACK, *([PREV] if number > 1 else []), NEXT]
  count = f'Page {number} (Total results: {total})'
  texts = ['Instruction:', instruction, BACK, count, *buttons[1:]]
  for product in shown:
    texts += [product.asin, product.title, product.price_tag]
  links = [product.asin for product in shown]
  return Page(_visible(texts), _names([*buttons, *links]))


def item_page(instruction: str, product: Product) -> Page:
  """The page of a product, with its options."""
  buttons = [BACK, PREV, *SUB_PAGES, BUY]
  texts = ['Instruction:', instruction, BACK, PREV]
  values: list[str] = []
  for name, these in product.options.items():
    texts += [name, *these]
    values += these
  texts += [
    product.title,
    f'Price: {product.price_tag}',
    'Rating: N.A.',  # WebShop's files hold no ratings
    *SUB_PAGES,
    BUY,
  ]
  names = dict.fromkeys([*_names(buttons), *values])
  return Page(_visible(texts), tuple(names))


def sub_page(instruction: str, product: Product, name: str) -> Page:
  """The page of a product that one of `SUB_PAGES` names."""
  texts = _visible(('Instruction:', instruction, BACK, PREV))
  if name == 'Features':
    texts += tuple(bullet.strip() for bullet in product.bullets)
  elif name == 'Description':
    texts += _visible([product.description])
  return Page(texts, _names([BACK, PREV]))


def done_page(asin: str, chosen: Mapping[str, str], total: float) -> Page:
  """What follows a purchase; most of its fields are never filled in."""
  purchased = ('attrs', 'category', 'query', 'product category')
  target = (
    'asin', 'options', 'attrs', 'price upper', 'instuction text', 'category',
    'product category', 'query',
  )  # fmt: skip
  texts = [
    'Thank you for shopping with us!',
    *('Your code:', 'None', '(Paste it in your MTurk interface.)'),
    *('Purchased', 'asin', asin, 'options', _script_json(chosen)),
    *(text for name in purchased for text in (name, 'None')),
    *('Target', *target, 'Goal', 'None', 'Reward'),
    *('Your score (min 0.0, max 1.0)', str(total), 'Reward Details', 'None'),
  ]
  return Page(tuple(texts), (SEARCH.lower(),), has_search=True)


def _visible(texts: Sequence[str]) -> tuple[str, ...]:
  """Pieces as a browser would have them: an empty one is none at all."""
  return tuple(text.strip() for text in texts if text not in ('', '\n'))


def _names(buttons: Sequence[str]) -> tuple[str, ...]:
  return tuple(dict.fromkeys(button.lower() for button in buttons))


def _script_json(value: Mapping[str, str]) -> str:
  """JSON as Flask writes it into a page: sorted, without HTML's own signs."""
  text = json.dumps(value, sort_keys=True)
  for sign in "<>&'":
    text = text.replace(sign, f'\\u{ord(sign):04x}')
  return text
