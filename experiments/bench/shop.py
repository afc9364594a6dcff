"""How fast is the shop? Searches and steps, small and at a million products.

`python -m experiments.bench.env --env=webshop` runs it. The large catalogue is
drawn piece by piece (what is between spaces) with the frequencies of the small
one's texts, and with their lengths. Every search is compared with a sum over
all postings. Time is the process's CPU time, except for the build.
"""

from __future__ import annotations

import itertools
import json
import lzma
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from envs.webshop import search, session
from envs.webshop.catalog import Product, read_products
from envs.webshop.generate import generate_products
from envs.webshop.nouns import rule_nouns
from envs.webshop.postings import Postings
from envs.webshop.reward import OPTION_HITS
from envs.webshop.shop import Packed, Shop, document, draw_for, pack
from envs.webshop.store import open_or_build
from experiments.bench import harness

_TITLE = 12  # pieces of a drawn text that become its title
_BATCH = 10_000  # texts drawn at a time
_GENERATED = 1000  # products of the small catalogue where there are no files


class Workload(NamedTuple):
  """What is searched, and for what."""

  products: list[Product]
  queries: list[str]


def load(folder: Path) -> Workload:
  """Reads WebShop's small set and recorded queries, or generates both."""
  names = ('items_shuffle_1000.json', 'items_ins_v2_1000.json', 'search.jsonl')
  if not all((folder / f'{name}.xz').is_file() for name in names):
    products = list(generate_products(_GENERATED, seed=0))
    return Workload(products, [one.instruction for one in products[:156]])
  with tempfile.TemporaryDirectory() as unpacked:
    paths = [Path(unpacked, name) for name in names]
    for path in paths:
      packed = (folder / f'{path.name}.xz').read_bytes()
      path.write_bytes(lzma.decompress(packed))
    lines = paths[2].read_text(encoding='utf-8').splitlines()
    return Workload(
      list(read_products(*paths[:2])), [json.loads(line)['q'] for line in lines]
    )


def draw_products(small: Sequence[Product], number: int) -> Iterator[Product]:
  """Draws products whose texts have the small set's words and lengths."""
  texts = [document(product).split() for product in small]
  pieces = list(itertools.chain.from_iterable(texts))
  lengths = np.array([len(text) for text in texts])
  rng = np.random.default_rng(0)
  for first in range(0, number, _BATCH):
    sizes = rng.choice(lengths, min(_BATCH, number - first))
    drawn = iter(rng.integers(len(pieces), size=sizes.sum()).tolist())
    for i, size in enumerate(sizes.tolist()):
      text = [pieces[j] for j in itertools.islice(drawn, size)]
      yield small[i % len(small)]._replace(
        asin=f'{first + i:010d}',
        title=' '.join(text[:_TITLE]),
        description=' '.join(text[_TITLE:]),
        bullets=('',),
        options={},
      )


def brute_force(postings: Postings, query: str, limit: int = 50) -> search.Hits:
  """Scores every document, in float64 from beginning to end."""
  scores = np.zeros(len(postings.ranks))
  for term in search.find_terms(postings, query):
    scores[term.rows] += term.gains()
  rounded = scores.astype(np.float32)
  rows = np.flatnonzero(rounded > 0)
  if len(rows) > limit:
    floor = np.partition(rounded[rows], -limit)[-limit]
    rows = rows[rounded[rows] >= floor]
  best = np.lexsort((postings.ranks[rows], -rounded[rows]))[:limit]
  return search.Hits(rows[best], rounded[rows[best]])


def bench_search(
  postings: Postings, queries: Sequence[str]
) -> dict[str, float]:
  """Milliseconds a search, and how many searches brute force contradicts."""
  watch, different = harness.Stopwatch(time.process_time), 0
  for query in queries:
    hits = watch('search', search.search, postings, query)
    expected = brute_force(postings, query)
    different += not all(map(np.array_equal, hits, expected))
  seconds = watch.seconds['search']
  return {
    'searches': len(queries),
    'searches_unlike_brute_force': different,
    'searches_per_second': watch.rate('search'),
    'search_ms_median': 1e3 * watch.median('search'),
    'search_ms_99th': 1e3 * float(np.percentile(seconds, 99)),
  }


def bench_steps(shop: Shop, steps: int) -> float:
  """Steps per second of episodes that search, look, and buy."""
  rng = random.Random(0)
  done = 0
  start = time.process_time()
  while done < steps:
    state = session.start(shop.goal(rng.randrange(shop.num_goals)))
    actions = [f'search[{state.goal.instruction}]']
    while state.kind != 'done':
      action = actions.pop() if actions else f'click[{_pick(state, rng)}]'
      state = session.act(shop, state, action)
      done += 1
  return done / (time.process_time() - start)


def _pick(state: session.Session, rng: random.Random) -> str:
  """A random click that goes on; 'back to search' would need a new query."""
  return rng.choice([x for x in state.page.clickables if x != 'back to search'])


def run(folder: Path, number: int, steps: int) -> dict[str, Any]:
  """Measures the small catalogue and a drawn one of `number` products."""
  work = load(folder)
  results: dict[str, Any] = {}
  for name, products in (
    ('small', work.products),
    ('large', draw_products(work.products, number)),
  ):
    with tempfile.TemporaryDirectory() as cache:
      build = _builder(products)
      watch = harness.Stopwatch()
      packed = watch('build', open_or_build, Path(cache), name, build)
      results[f'{name}_build_seconds'] = watch.median('build')
      results[f'{name}_build_gigabytes'] = harness.peak_process_bytes() / 1e9
      arrays = (*packed[:-2], *packed.goals, *packed.postings)
      results[f'{name}_products'] = len(packed.prices)
      results[f'{name}_mapped_gigabytes'] = sum(x.nbytes for x in arrays) / 1e9
      searches = bench_search(packed.postings, work.queries)
      results |= {f'{name}_{key}': x for key, x in searches.items()}
      shop = Shop(packed, rule_nouns, OPTION_HITS['webshop'], human=False)
      results[f'{name}_steps_per_second'] = bench_steps(shop, steps)
  return results


def _builder(products: Iterable[Product]) -> Callable[[], Packed]:
  return lambda: pack(products, draw_for(0, False))
