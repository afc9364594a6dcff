"""WebShop's products, read from its own files one at a time.

Two files make a catalogue and a third is optional, in the formats of WebShop
(Yao et al. 2022, https://arxiv.org/abs/2207.01206):

  items_shuffle*.json    a list of products
  items_ins_v2*.json     product id -> attributes, and an instruction for some
  items_human_ins.json   product id -> instructions that people wrote
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from envs.webshop.files import CatalogError, read_array, read_object, short

_NO_PRICE = (100.0,)  # what WebShop asks for a product without a price
_LONGEST_ID = 10  # characters


class HumanGoal(NamedTuple):
  """An instruction that a person wrote for a product.

  Attributes:
    text: the instruction.
    attributes: those that it asks for.
    options: the values of options that it asks for.
  """

  text: str
  attributes: tuple[str, ...]
  options: tuple[str, ...]


class Product(NamedTuple):
  """One product as the shop shows it.

  Attributes:
    asin: its id.
    title: its name.
    description: a text, '' where it has none.
    bullets: its features; at least one, which may be ''.
    options: name -> values, both lower case, in the file's order.
    prices: dollars; one, or the two ends of a range.
    category: WebShop's section, such as 'fashion'.
    query: the search that found it, lower case; the kind of product.
    product_category: the path of categories, joined by ' › '.
    attributes: what WebShop mined from its texts.
    instruction: the synthetic instruction, '' where it has none.
    instruction_attributes: the attributes that the instruction names.
    human: the instructions of people.
  """

  asin: str
  title: str
  description: str
  bullets: tuple[str, ...]
  options: dict[str, tuple[str, ...]]
  prices: tuple[float, ...]
  category: str
  query: str
  product_category: str
  attributes: tuple[str, ...]
  instruction: str
  instruction_attributes: tuple[str, ...]
  human: tuple[HumanGoal, ...] = ()

  @property
  def price_tag(self) -> str:
    """The price as pages show it."""
    return ' to '.join(f'${price}' for price in self.prices)


def read_products(
  products: Path,
  attributes: Path,
  human: Path | None = None,
  *,
  limit: int | None = None,
  skip_duplicates: bool = False,
) -> Iterator[Product]:
  """Yields the products of a catalogue in the file's order.

  Entries whose id is 'nan' or has more than ten characters are no products in
  WebShop, and none here.

  Args:
    products: `items_shuffle*.json`, which is never held in memory as a whole.
    attributes: `items_ins_v2*.json`.
    human: `items_human_ins.json`, if wanted.
    limit: only the first so many entries of the file.
    skip_duplicates: whether a second entry of an id is left out, as WebShop
      does, and not an error.

  Raises: CatalogError with file and product where either is not as expected,
    and where there is no product at all.
  """
  known = read_object(attributes)
  written = read_object(human) if human else {}
  asins: set[str] = set()
  for number, raw in enumerate(read_array(products)):
    if number == limit:
      break
    where = f'{products}: product {number}'
    asin = _field(raw, 'asin', str, where)
    where += f' ({asin})'
    if asin == 'nan' or len(asin) > _LONGEST_ID:
      continue
    if asin in asins:
      if skip_duplicates:
        continue
      raise CatalogError(
        f'{where}: this id is there twice; remove one, or set skip_duplicates '
        'to keep the first, as WebShop does.'
      )
    asins.add(asin)
    about = parse_about(known.get(asin), f'{attributes}: product {asin}')
    people = _human_goals(written.get(asin, []), f'{human}: product {asin}')
    yield parse_product(raw, about, people, where)
  if not asins:
    raise CatalogError(
      f'{products}: it holds no product; expected a list of objects, as in '
      "WebShop's items_shuffle_1000.json."
    )


def parse_product(
  raw: Mapping[str, Any],
  about: Mapping[str, Any],
  human: tuple[HumanGoal, ...],
  where: str,
) -> Product:
  """Builds a product.

  Args:
    raw: its entry in the products file.
    about: see `parse_about`.
    human: what people ask for.
    where: names `raw` in errors.
  """
  bullets = _given(raw, 'small_description', where)
  if isinstance(bullets, str):
    bullets = [bullets]
  if not bullets:
    raise CatalogError(
      f'{where}: small_description is {bullets!r}; expected a text or a list '
      'of at least one.'
    )
  return Product(
    asin=_field(raw, 'asin', str, where),
    title=_field(raw, 'name', str, where),
    description=_field(raw, 'full_description', str, where),
    bullets=_texts({'small_description': bullets}, 'small_description', where),
    options=_options(raw, where),
    prices=_prices(raw.get('pricing'), where),
    category=_field(raw, 'category', str, where),
    query=_field(raw, 'query', str, where).lower().strip(),
    product_category=_field(raw, 'product_category', str, where),
    human=human,
    **about,
  )


def parse_about(entry: Any, where: str) -> dict[str, Any]:
  """Reads an entry of the attributes file; `where` names it in errors.

  Returns: the fields of `Product` that come from there.
  """
  if not isinstance(entry, dict):
    raise CatalogError(
      f'{where}: got {short(entry)}, expected an object with attributes; '
      'do the two files belong together?'
    )
  about = {'attributes': ['DUMMY_ATTR'], **entry}  # WebShop's own stand-in
  attributes = _texts(about, 'attributes', where)
  if not about.get('instruction'):
    return {
      'attributes': attributes,
      'instruction': '',
      'instruction_attributes': (),
    }
  named = _texts(about, 'instruction_attributes', where)
  if not named:
    raise CatalogError(
      f'{where}: its instruction names no attribute; expected a list of at '
      'least one in instruction_attributes.'
    )
  return {
    'attributes': attributes,
    'instruction': _field(about, 'instruction', str, where),
    'instruction_attributes': named,
  }


def _options(raw: Mapping[str, Any], where: str) -> dict[str, tuple[str, ...]]:
  """Option name -> values; '/' between spaces, all lower case, as WebShop."""
  options = {}
  entry = _given(raw, 'customization_options', where) or {}
  if not isinstance(entry, dict):
    raise CatalogError(
      f'{where}: customization_options is {short(entry)}; expected an object.'
    )
  for name, values in entry.items():
    if values is None:
      continue
    if not isinstance(values, list):
      raise CatalogError(
        f'{where}: option {name!r} is {short(values)}; expected a list.'
      )
    option = f'{where}, option {name!r}'
    options[name.lower()] = tuple(
      _field(value, 'value', str, option).strip().replace('/', ' | ').lower()
      for value in values
    )
  return options


def _prices(pricing: Any, where: str) -> tuple[float, ...]:
  """Reads '$12.5' or '$3.99 - $10.99'; what follows a second price is left."""
  if not pricing:
    return _NO_PRICE
  numbers = str(pricing).split('$')[1:]
  try:
    prices = [float(re.sub(r'[^\d.]', '', number)) for number in numbers]
  except ValueError:
    prices = []
  if not prices or max(prices) == math.inf:
    raise CatalogError(
      f"{where}: pricing is {short(pricing)}; expected '$12.50', a range "
      "'$3.99 - $10.99', or nothing."
    )
  return tuple(prices[:2])


def _human_goals(entries: Any, where: str) -> tuple[HumanGoal, ...]:
  """Instructions that name an attribute; WebShop leaves the others out."""
  if not isinstance(entries, list):
    raise CatalogError(f'{where}: got {short(entries)}, expected a list.')
  return tuple(
    HumanGoal(
      _field(one, 'instruction', str, where),
      _texts(one, 'instruction_attributes', where),
      _texts(one, 'instruction_options', where),
    )
    for one in entries
    if _texts(one, 'instruction_attributes', where)
  )


def _given(record: Any, name: str, where: str) -> Any:
  if not isinstance(record, dict):
    raise CatalogError(
      f'{where}: got {short(record)}, expected an object with {name}.'
    )
  if name not in record:
    raise CatalogError(f'{where}: {name} is missing.')
  return record[name]


def _field(record: Any, name: str, kind: type, where: str) -> Any:
  value = _given(record, name, where)
  if not isinstance(value, kind):
    raise CatalogError(
      f'{where}: {name} is {short(value)}; expected a {kind.__name__}.'
    )
  return value


def _texts(record: Any, name: str, where: str) -> tuple[str, ...]:
  values = _field(record, name, list, where)
  if not all(isinstance(value, str) for value in values):
    raise CatalogError(
      f'{where}: {name} is {short(values)}; expected texts only.'
    )
  return tuple(values)
