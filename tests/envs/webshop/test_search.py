"""The analyzer, the stemmer and the search beside slow, obvious references."""

import collections
import math
import random
import time

import numpy as np
import pytest

from envs.webshop import analyzer, generate, postings, search, shop
from envs.webshop.porter import stem


@pytest.mark.parametrize(
  ('text', 'terms'),
  [
    ('The Dogs are RUNNING', ['dog', 'run']),
    ("women's o'neil's shoes’s '", ['women', "o'neil", 'shoe']),
    (
      '3.5mm 12,5 a_b x:y 1:2 x.',
      ['3.5mm', '12,5', 'a_b', 'x:y', '1', '2', 'x'],
    ),
    ('usb-c cable/6ft', ['usb', 'c', 'cabl', '6ft']),
    ('👍🏽 👨‍👩‍👧 🇩🇪🇫🇷 1️⃣ ★', ['👍🏽', '👨‍👩‍👧', '🇩🇪', '🇫🇷', '1️⃣', '★']),
    (
      '日本 ひら カタカナ 한국어',
      ['日', '本', 'ひ', 'ら', 'カタカナ', '한국어'],
    ),
    ('ภาษาไทย naïve\u00a0café', ['ภาษาไทย', 'naïv', 'café']),
    ('\ud800 \x00 [SEP] ()', ['sep']),
    ('', []),
  ],
)
def test_terms(text, terms):
  assert analyzer.analyze(text) == terms


def test_words_are_cut_at_255_characters():
  assert [len(x) for x in analyzer.words('a' * 600)] == [255, 255, 90]
  assert [len(x) for x in analyzer.words('é' * 256)] == [255, 1]


@pytest.mark.parametrize(
  'piece',
  ['_', 'a_', 'é_', '_\u0301', '\u200d', "a'", '1.', '👍\u200d', 'ก', '"'],
)
def test_long_text_is_analyzed_in_linear_time(piece):
  start = time.process_time()
  analyzer.analyze(piece * 5000)
  assert time.process_time() - start < 3  # quadratic ones take minutes


# Most are the examples in Porter's paper.
STEMS = """
  caresses caress ponies poni ties ti cats cat feed feed agreed agre
  plastered plaster motoring motor sing sing conflated conflat
  troubled troubl sized size hopping hop falling fall hissing hiss
  failing fail filing file happy happi sky sky relational relat
  conditional condit digitizer digit operator oper feudalism feudal
  hopefulness hope formaliti formal sensibiliti sensibl triplicate triplic
  formative form electrical electr goodness good revival reviv
  allowance allow adjustable adjust adoption adopt communism commun
  probate probat rate rate cease ceas controll control roll roll by by
  possibly possibl archaeology archaeolog
"""


def test_stems():
  given, expected = STEMS.split()[::2], STEMS.split()[1::2]
  assert [stem(word) for word in given] == expected


def reference(texts, ids, query, limit=50):
  """Every document scored by the formula, one float32 operation at a time."""
  f = np.float32
  counts = [collections.Counter(analyzer.analyze(text)) for text in texts]
  sizes = [sum(count.values()) for count in counts]
  filled = sum(size > 0 for size in sizes)
  mean = f(sum(sizes) / filled)
  scored = []
  for asin, count, size in zip(ids, counts, sizes, strict=True):
    total = 0.0
    for term, times in collections.Counter(analyzer.analyze(query)).items():
      df = sum(term in other for other in counts)
      if not count[term]:
        continue
      weight = f(times) * f(math.log(1 + (filled - df + 0.5) / (df + 0.5)))
      length = f(size if size < 40 else 24 + ((size - 24) & ~1))  # below 56
      factor = f(1) / (f(0.9) * ((f(1) - f(0.4)) + f(0.4) * length / mean))
      total += float(weight - weight / (f(1) + f(count[term]) * factor))
    if total:
      scored.append((-f(total), asin))
  return [(asin, -score) for score, asin in sorted(scored)[:limit]]


def test_search_equals_the_formula():
  products = list(generate.generate_products(150, seed=3))
  texts = [shop.document(product) for product in products]
  texts[7] = ''  # counts neither for the mean length nor for idf
  ids = [product.asin for product in products]
  random.Random(0).shuffle(ids)
  index = postings.build(zip(ids, texts, strict=True))
  queries = [product.instruction for product in products[::15]]
  for query in [*queries, 'black black', 'lamp', 'no such thing', '', '★ 日本']:
    hits = search.search(index, query)
    found = [ids[row] for row in hits.rows], hits.scores.tolist()
    expected = reference(texts, ids, query)
    assert found == ([x for x, _ in expected], [float(y) for _, y in expected])


def test_early_end_changes_nothing(monkeypatch):
  rng = np.random.default_rng(0)
  words = [f'w{i}' for i in range(300)]
  odds = 1 / np.arange(1, 301)
  texts = [
    ' '.join(rng.choice(words, rng.integers(5, 60), p=odds / odds.sum()))
    for _ in range(5000)
  ]
  index = postings.build((f'{i:05d}', text) for i, text in enumerate(texts))
  queries = [' '.join(rng.choice(words, 12)) for _ in range(60)]
  early = [search.search(index, query) for query in queries]
  monkeypatch.setattr(search, '_LARGE', 1e-9)  # no term is large enough
  for query, hits in zip(queries, early, strict=True):
    full = search.search(index, query)
    assert np.array_equal(hits.rows, full.rows)
    assert np.array_equal(hits.scores, full.scores)


def test_batches_change_nothing(monkeypatch):
  products = list(generate.generate_products(60, seed=3))
  documents = [(x.asin, shop.document(x)) for x in products]
  whole = postings.build(documents)
  monkeypatch.setattr(postings, '_BATCH', 7)
  monkeypatch.setattr(postings, '_CACHED', 5)
  for one, other in zip(whole, postings.build(documents), strict=True):
    np.testing.assert_array_equal(one, other)


def test_an_index_of_nothing_finds_nothing():
  index = postings.build([('a', ''), ('b', '!?')])
  assert len(search.search(index, 'shoes').rows) == 0
