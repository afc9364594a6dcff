"""Lucene's BM25 search over postings: exact scores, order and ties.

A rough pass adds up scores in float32, term after term, from the term that can
give most to the one that can give least. It ends early where those that are
left cannot lift a document among the best any more (MaxScore; Turtle and Flood
1995). What may be among the best is then scored as Lucene does it.
"""

from __future__ import annotations

import bisect
import collections
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from envs.webshop.analyzer import analyze
from envs.webshop.postings import Postings

# A posting is added in this share of the time that a look-up of one takes.
_LOOKUP = 32
_LARGE = 4  # a term in a quarter of all documents is worth some work to avoid
_BLOCKS = 4096  # in which a bound of the best scores is sought


class Hits(NamedTuple):
  """What a search found, best first.

  Attributes:
    rows: `[H]` int, rows of documents.
    scores: `[H]` float32.
  """

  rows: np.ndarray
  scores: np.ndarray


class _Term(NamedTuple):
  """A term of a query in the index.

  Attributes:
    rows, spreads: its postings.
    weight: float32, idf times its count in the query.
    bound: the most that it gives to a document.
  """

  rows: np.ndarray
  spreads: np.ndarray
  weight: np.float32
  bound: float

  def gains(self) -> np.ndarray:
    """What the postings give, float32, in Lucene's order of operations."""
    return self.weight - self.weight / self.spreads

  def gains_of(self, rows: np.ndarray) -> np.ndarray:
    """What it gives to some rows `[C]` int32; 0 where a row has no posting."""
    # Of the same type as the postings, or numpy would convert all of those.
    places = np.searchsorted(self.rows, rows)
    places = np.minimum(places, len(self.rows) - 1)
    gains = self.weight - self.weight / self.spreads[places]
    return np.where(self.rows[places] == rows, gains, np.float32(0))


def search(postings: Postings, query: str, limit: int = 50) -> Hits:
  """Returns the best documents for a query; equal scores by id.

  A score is the sum over the query's terms t, counted c times in it, of

    c idf(t) freq / (freq + k1 (1 - b + b length / mean length)),
    idf(t) = ln(1 + (n - df + 0.5) / (df + 0.5)),

  with float32 parts, summed in float64 and rounded to float32, as Lucene 8
  does. Equal ones are in the order of their ids, as in Anserini.
  """
  terms = find_terms(postings, query)
  candidates = _candidates(terms, len(postings.ranks), limit)
  scores = np.zeros(len(candidates))
  for term in terms:
    scores += term.gains_of(candidates)
  rounded = scores.astype(np.float32)
  best = np.lexsort((postings.ranks[candidates], -rounded))[:limit]
  return Hits(candidates[best], rounded[best])


def find_terms(postings: Postings, query: str) -> list[_Term]:
  """The query's terms that the index knows, from the largest bound down."""
  terms = []
  for text, count in collections.Counter(analyze(query)).items():
    number = _number(postings, text.encode('utf-8', 'surrogatepass'))
    if number is None:
      continue
    start, end = postings.starts[number : number + 2]
    df, n = int(end - start), int(postings.num_texts[0])
    idf = np.float32(math.log(1 + (n - df + 0.5) / (df + 0.5)))
    weight = np.float32(count) * idf
    terms.append(
      _Term(
        postings.rows[start:end],
        postings.spreads[start:end],
        weight,
        float(weight - weight / postings.peaks[number]),
      )
    )
  return sorted(terms, key=lambda term: -term.bound)


def _number(postings: Postings, text: bytes) -> int | None:
  def nth(i: int) -> bytes:
    return postings.text[slice(*postings.text_starts[i : i + 2])].tobytes()

  size = len(postings.peaks)
  number = bisect.bisect_left(range(size), text, key=nth)
  return number if number < size and nth(number) == text else None


def _candidates(terms: Sequence[_Term], size: int, limit: int) -> np.ndarray:
  """Rows, int32, that hold all of the best `limit` among `size`."""
  rough, rows = np.zeros(size, np.float32), None  # None: all are in the run
  left = sum(term.bound for term in terms)
  # What rounding can do to a sum in float32.
  slack = left * len(terms) * float(np.finfo(np.float32).eps)
  for i, term in enumerate(terms):
    if rows is None and len(term.rows) > size // _LARGE:
      enough = _floor(rough, limit) - left - slack
      unread = sum(len(other.rows) for other in terms[i:])
      if enough > 0:  # a row that has nothing yet cannot come so far
        able = np.flatnonzero(rough >= enough)
        if len(able) * _LOOKUP * (len(terms) - i) < unread:
          rows, rough = able.astype(np.int32), rough[able]
    if rows is None:
      np.add.at(rough, term.rows, term.gains())
    else:
      rough += term.gains_of(rows)
    left -= term.bound
  enough = _floor(rough, limit) - slack
  best = np.flatnonzero((rough >= enough) & (rough > 0)).astype(np.int32)
  return best if rows is None else rows[best]


def _floor(rough: np.ndarray, limit: int) -> float:
  """A score that `limit` rows reach: that of the limit-th best block."""
  width = max(len(rough) // _BLOCKS, 1)
  blocks = rough[: len(rough) // width * width].reshape(-1, width).max(axis=1)
  if len(blocks) < limit:
    return 0.0
  return float(np.partition(blocks, -limit)[-limit])
