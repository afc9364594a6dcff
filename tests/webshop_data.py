"""Where the WebShop tests find the small set and what was recorded with it."""

from __future__ import annotations

import functools
import json
import lzma
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from envs.webshop import catalog, goals, reward, shop

PRODUCTS, ATTRIBUTES = 'items_shuffle_1000.json', 'items_ins_v2_1000.json'
# The recordings were made with this stand-in for a tagger.
_LISTED = (
  'a an the and or of for with in on to by from at as is are be this that '
  'these those it its your our my i you we they he she not no new best very '
  'more most high low large small long short great good'
)
_NO_NOUNS = frozenset(_LISTED.split())


def recorded_nouns(text: str) -> list[str]:
  tokens = re.findall(r'\w+|[^\w\s]', text)
  words = [token.lower() for token in tokens if token.isalpha()]
  return [word for word in words if word not in _NO_NOUNS]


def read(name: str) -> str:
  """A data file's text, or skips: below $HGPO_TEST_DATA, else a known place."""
  beside = Path(__file__).resolve().parents[2] / 'shared' / 'data'
  folder = Path(os.environ.get('HGPO_TEST_DATA') or beside, 'webshop')
  path = folder / f'{name}.xz'
  if not path.is_file():
    pytest.skip(f'{path} is not there; HGPO_TEST_DATA names its folder')
  return lzma.decompress(path.read_bytes()).decode('utf-8')


def lines(name: str) -> Iterator[Any]:
  return map(json.loads, read(name).splitlines())


@functools.cache
def products() -> tuple[catalog.Product, ...]:
  with tempfile.TemporaryDirectory() as folder:
    paths = [Path(folder, name) for name in (PRODUCTS, ATTRIBUTES)]
    for path in paths:
      path.write_text(read(path.name), encoding='utf-8')
    return tuple(catalog.read_products(*paths))


@functools.cache
def recorded_goals() -> dict[str, Any]:
  return json.loads(read('goals_seed0.json'))


@functools.cache
def recorded_shop(option_hits: str = 'webshop') -> shop.Shop:
  """The small set with the recorded prices and bounds injected."""
  recorded = recorded_goals()
  bounds = {goal['asin']: goal['price_upper'] for goal in recorded['goals']}

  def draw(product: catalog.Product) -> goals.Drawn:
    bound = bounds.get(product.asin, goals.NO_BOUND)
    return goals.Drawn(recorded['prices'][product.asin], (bound,))

  hits = reward.OPTION_HITS[option_hits]
  packed = shop.pack(products(), draw, seed=0)
  return shop.Shop(packed, recorded_nouns, hits, human=False)
