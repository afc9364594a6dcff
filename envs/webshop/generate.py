"""A small catalogue from a seed, in the format of WebShop's files.

The words are our own. Products come in kinds; those of a kind differ in brand,
attributes, options and price, so that a goal takes a search, a choice among
what it finds, and the right options.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from envs.webshop.catalog import Product, parse_about, parse_product

_BRANDS = (
  'Alderway', 'Brightmoor', 'Corvane', 'Dunlark', 'Elmstead', 'Farrowby',
  'Glenhurst', 'Harrowell', 'Ivenko', 'Juniper Row', 'Kestrelle', 'Lowmarsh',
  'Merribel', 'Northby', 'Ostrava Mills', 'Pennick', 'Quillon', 'Redfern',
  'Silverbeck', 'Tamsin',
)  # fmt: skip
_ANY = (
  'easy to clean', 'gift boxed', 'two year warranty', 'recycled packaging',
  'made by hand', 'travel friendly',
)  # fmt: skip
_COLORS = (
  'black', 'white', 'navy', 'olive', 'beige', 'teal', 'burgundy', 'mustard',
)  # fmt: skip
_CLOTHES = ('small', 'medium', 'large', 'x-large')
_PACKS = ('1 pack', '2 pack', '4 pack')
_PER_INSTRUCTION = (1, 2)  # attributes that it names


class _Kind(NamedTuple):
  """A kind of product.

  Attributes:
    section: WebShop's category.
    path: the categories above it.
    query: its name in instructions and searches, plural.
    noun: its name in titles.
    attributes: what products of the kind may have.
    options: option name -> values that a product may offer.
    prices: least and most, dollars.
  """

  section: str
  path: tuple[str, ...]
  query: str
  noun: str
  attributes: tuple[str, ...]
  options: dict[str, tuple[str, ...]]
  prices: tuple[int, int]


_SHOES = {'color': _COLORS, 'size': ('7', '8', '9', '10', '11')}
_WEAR = {'color': _COLORS, 'size': _CLOTHES}
_KINDS = (
  _Kind('fashion', ('Clothing', 'Tops'), 'linen shirts', 'Linen Shirt',
        ('long sleeve', 'button cuffs', 'relaxed fit', 'pre washed'),
        _WEAR, (18, 60)),
  _Kind('fashion', ('Clothing', 'Outerwear'), 'rain jackets', 'Rain Jacket',
        ('taped seams', 'packable hood', 'zip pockets', 'mesh lining'),
        _WEAR, (40, 150)),
  _Kind('fashion', ('Clothing', 'Bottoms'), 'hiking trousers',
        'Hiking Trousers',
        ('stretch fabric', 'quick drying', 'knee patches', 'belt loops'),
        _WEAR, (30, 90)),
  _Kind('fashion', ('Shoes', 'Boots'), 'ankle boots', 'Ankle Boots',
        ('rubber sole', 'side zip', 'padded collar', 'suede upper'),
        _SHOES, (45, 160)),
  _Kind('fashion', ('Shoes', 'Slippers'), 'wool slippers', 'Wool Slippers',
        ('non slip sole', 'felted wool', 'open back', 'arch support'),
        _SHOES, (15, 50)),
  _Kind('garden', ('Home', 'Lighting'), 'desk lamps', 'Desk Lamp',
        ('dimmable light', 'folding arm', 'usb charging', 'weighted base'),
        {'color': _COLORS}, (20, 95)),
  _Kind('garden', ('Home', 'Furniture'), 'side tables', 'Side Table',
        ('solid oak', 'hidden drawer', 'no tools needed', 'rounded corners'),
        {'color': _COLORS, 'size': ('low', 'tall')}, (35, 180)),
  _Kind('garden', ('Home', 'Bedding'), 'cotton blankets', 'Cotton Blanket',
        ('machine washable', 'fringed edge', 'double layer', 'all season'),
        {'color': _COLORS, 'size': ('twin', 'queen', 'king')}, (25, 110)),
  _Kind('garden', ('Home', 'Kitchen'), 'ceramic mugs', 'Ceramic Mug',
        ('microwave safe', 'wide handle', 'matte glaze', 'stackable'),
        {'color': _COLORS, 'count': _PACKS}, (8, 40)),
  _Kind('electronics', ('Electronics', 'Audio'), 'bluetooth speakers',
        'Bluetooth Speaker',
        ('splash proof', 'stereo pairing', 'twelve hour battery',
         'built in microphone'),
        {'color': _COLORS}, (22, 190)),
  _Kind('electronics', ('Electronics', 'Cables'), 'charging cables',
        'Charging Cable',
        ('braided cord', 'fast charging', 'right angle plug', 'data transfer'),
        {'length': ('3 ft', '6 ft', '10 ft'), 'count': _PACKS}, (6, 30)),
  _Kind('electronics', ('Electronics', 'Cameras'), 'camera bags', 'Camera Bag',
        ('padded dividers', 'rain cover', 'tripod straps', 'hidden pocket'),
        {'color': _COLORS, 'size': _CLOTHES[:3]}, (28, 140)),
  _Kind('beauty', ('Beauty', 'Hair'), 'hair oils', 'Hair Oil',
        ('argan oil', 'paraben free', 'heat protection', 'light scent'),
        {'scent': ('rose', 'citrus', 'cedar'), 'count': _PACKS}, (9, 45)),
  _Kind('beauty', ('Beauty', 'Skin'), 'hand creams', 'Hand Cream',
        ('shea butter', 'fragrance free', 'fast absorbing', 'vegan formula'),
        {'size': ('1 oz', '3 oz', '8 oz'), 'count': _PACKS}, (6, 35)),
  _Kind('grocery', ('Grocery', 'Snacks'), 'trail mixes', 'Trail Mix',
        ('gluten free', 'low sodium', 'no added sugar', 'resealable bag'),
        {'flavor': ('cherry', 'mango', 'cocoa'), 'count': _PACKS}, (5, 28)),
  _Kind('grocery', ('Grocery', 'Drinks'), 'green teas', 'Green Tea',
        ('loose leaf', 'fair trade', 'caffeine free', 'single origin'),
        {'flavor': ('jasmine', 'mint', 'lemon'), 'count': _PACKS}, (6, 32)),
)  # fmt: skip


class Family(NamedTuple):
  """How much there is to read in a generated catalogue.

  Attributes:
    kinds: kinds of products.
    brands: who makes them.
    attributes: (least, most) that a product has.
    values: (least, most) that it offers of an option, where there are so many.
    in_title: how many attributes a title names; the other texts name all.
    asin: an id; may use {index}.
    instruction: what is asked for, before its options; may use
      {named} (attributes) and {query}.
  """

  kinds: tuple[_Kind, ...]
  brands: tuple[str, ...]
  attributes: tuple[int, int]
  values: tuple[int, int]
  in_title: int
  asin: str
  instruction: str


FAMILIES = {
  'full': Family(
    kinds=_KINDS,
    brands=_BRANDS,
    attributes=(3, 5),
    values=(2, 4),
    in_title=1,
    asin='G{index:09d}',
    instruction='Find me {named} {query}',
  ),
  # Every word that counts is on the page of results, apart from the others,
  # and ids are words with a number, which a small tokenizer keeps whole.
  'easy': Family(
    kinds=_KINDS[::2],  # all of them have two options
    brands=_BRANDS[:4],
    attributes=(2, 3),
    values=(2, 3),
    in_title=3,
    asin='ITEM {index}',
    instruction='Find me {query}, {named}',
  ),
}


def generate_products(
  num_products: int, seed: int, family: Family = FAMILIES['full']
) -> Iterator[Product]:
  """Yields the products of a generated catalogue, through WebShop's format."""
  for index in range(num_products):
    raw, about = generate_entry(index, seed, family)
    where = f'generated product {index}'
    yield parse_product(raw, parse_about(about, where), (), where)


def generate_entry(
  index: int, seed: int, family: Family = FAMILIES['full']
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Makes one product and what is said about it, as WebShop's files do."""
  rng = random.Random(f'webshop product {seed} {index}')
  kind = rng.choice(family.kinds)
  brand = rng.choice(family.brands)
  number = rng.randint(*family.attributes)
  attributes = rng.sample(kind.attributes + _ANY, number)
  named = rng.sample(attributes, rng.randint(*_PER_INSTRUCTION))
  title = ', '.join([f'{brand} {kind.noun}', *attributes[: family.in_title]])
  raw = {
    'asin': family.asin.format(index=index),
    'name': title,
    'full_description': (
      f'The {kind.noun.lower()} by {brand}: {", ".join(attributes)}.'
    ),
    'small_description': [text.capitalize() for text in attributes],
    'pricing': _pricing(kind, rng),
    'customization_options': {
      name: [{'value': x} for x in _some(values, family.values, rng)]
      for name, values in kind.options.items()
    },
    'category': kind.section,
    'query': kind.query,
    'product_category': ' › '.join((*kind.path, kind.query.title())),
  }
  about = {
    'attributes': attributes,
    'instruction': family.instruction.format(
      named=', '.join(named), query=kind.query
    ),
    'instruction_attributes': named,
  }
  return raw, about


def _some(
  values: tuple[str, ...], bounds: tuple[int, int], rng: random.Random
) -> list[str]:
  """Some of the values, in their own order."""
  least, most = bounds
  chosen = rng.sample(values, rng.randint(least, min(most, len(values))))
  return [value for value in values if value in chosen]


def _pricing(kind: _Kind, rng: random.Random) -> str:
  """One price, or for every fourth product a range."""
  price = rng.uniform(*kind.prices)
  if rng.random() < 0.25:
    return f'${price:.2f} - ${price * rng.uniform(1.1, 1.5):.2f}'
  return f'${price:.2f}'
