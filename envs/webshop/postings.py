"""Builds the search index: which document holds which term, and how often.

The arrays hold all that a score needs but the query: per posting, Lucene's
BM25 without its weight. They grow with the text and with nothing else, so that
a million products fit in a gigabyte, which processes can share.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from envs.webshop.analyzer import analyze

K1, B = np.float32(0.9), np.float32(0.4)  # what Anserini sets for BM25
_BATCH = 50_000  # documents that are sorted together; fewer than 2^16
_CACHED = 2_000_000  # pieces of text whose terms are remembered


class Postings(NamedTuple):
  """An index of N documents, V terms and P postings, ordered by term and row.

  Attributes:
    text: `[*]` uint8, the terms in UTF-8, one after the other, sorted.
    text_starts: `[V + 1]` int64, where each term begins there.
    starts: `[V + 1]` int64, first posting of each term.
    rows: `[P]` int32, the document of a posting.
    spreads: `[P]` float32, 1 + freq / (k1 (1 - b + b length / mean length)).
    peaks: `[V]` float32, the largest spread of each term.
    ranks: `[N]` int32, the place of a document among the sorted ids.
    num_texts: `[1]` int64, documents with a term in them.
  """

  text: np.ndarray
  text_starts: np.ndarray
  starts: np.ndarray
  rows: np.ndarray
  spreads: np.ndarray
  peaks: np.ndarray
  ranks: np.ndarray
  num_texts: np.ndarray


class _Batch(NamedTuple):
  """Postings of consecutive documents, ordered by term and row."""

  first: int  # row of the first document
  terms: np.ndarray  # [T] int64, each once, numbered as they were first seen
  sizes: np.ndarray  # [T] int64, postings of each
  offsets: np.ndarray  # [P] uint16, row less `first`
  freqs: np.ndarray  # [P] float32


def build(documents: Iterable[tuple[str, str]]) -> Postings:
  """Indexes (id, text) pairs; ids decide between equal scores."""
  vocabulary: dict[str, int] = {}
  ids: list[str] = []
  known: dict[str, tuple[int, ...]] = {}  # pieces between spaces
  batches: list[_Batch] = []
  sizes: list[int] = []
  rest = iter(documents)
  while batch := list(itertools.islice(rest, _BATCH)):
    numbers = [_term_ids(text, vocabulary, known) for _, text in batch]
    batches.append(_count(numbers, len(ids)))
    sizes += map(len, numbers)
    ids += (name for name, _ in batch)
  lengths = np.array(sizes, np.int64)
  terms = sorted(vocabulary, key=_utf8)
  place = np.zeros(len(terms), np.int64)  # of a term by when it was first seen
  place[[vocabulary[term] for term in terms]] = np.arange(len(terms))
  starts, rows, spreads = _merge(batches, place, _length_factors(lengths))
  encoded = [_utf8(term) for term in terms]
  return Postings(
    text=np.frombuffer(b''.join(encoded), np.uint8),
    text_starts=np.cumsum([0, *map(len, encoded)], dtype=np.int64),
    starts=starts,
    rows=rows,
    spreads=spreads,
    peaks=np.maximum.reduceat(spreads, starts[:-1]) if terms else spreads,
    ranks=np.argsort(np.argsort(np.array(ids))).astype(np.int32),
    num_texts=np.array([np.count_nonzero(lengths)]),
  )


def _utf8(term: str) -> bytes:
  return term.encode('utf-8', 'surrogatepass')


def _term_ids(
  text: str, vocabulary: dict[str, int], known: dict[str, tuple[int, ...]]
) -> list[int]:
  """Numbers a text's terms; adds to both tables what is new in it."""
  result: list[int] = []
  for piece in text.lower().split():
    numbers = known.get(piece)
    if numbers is None:
      if len(known) >= _CACHED:
        known.clear()
      numbers = known[piece] = tuple(
        vocabulary.setdefault(term, len(vocabulary)) for term in analyze(piece)
      )
    result += numbers
  return result


def _count(documents: Sequence[Sequence[int]], first: int) -> _Batch:
  """Counts the terms of consecutive documents, of which `first` is the row."""
  lengths, n = [len(one) for one in documents], len(documents)
  numbers = np.fromiter(itertools.chain.from_iterable(documents), np.int64)
  keys = np.sort(numbers * n + np.repeat(np.arange(n), lengths))
  new = np.flatnonzero(np.diff(keys, prepend=-1))
  terms, sizes = np.unique(keys[new] // n, return_counts=True)
  return _Batch(
    first=first,
    terms=terms,
    sizes=sizes,
    offsets=(keys[new] % n).astype(np.uint16),
    freqs=np.diff(new, append=len(keys)).astype(np.float32),
  )


def _merge(
  batches: list[_Batch], place: np.ndarray, factors: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Puts the postings of a term together; empties `batches` to save memory."""
  counts = np.zeros(len(place), np.int64)
  for batch in batches:
    counts[place[batch.terms]] += batch.sizes
  starts = np.concatenate([[0], np.cumsum(counts)])
  rows = np.empty(starts[-1], np.int32)
  spreads = np.empty(starts[-1], np.float32)
  free = starts[:-1].copy()  # where the next posting of a term goes
  batches.reverse()
  while batches:
    batch = batches.pop()
    terms = place[batch.terms]
    begins = np.cumsum(batch.sizes) - batch.sizes
    to = np.arange(len(batch.offsets))
    to += np.repeat(free[terms] - begins, batch.sizes)
    rows[to] = batch_rows = batch.offsets.astype(np.int32) + batch.first
    spreads[to] = np.float32(1) + batch.freqs * factors[batch_rows]
    free[terms] += batch.sizes
  return starts, rows, spreads


def _length_factors(lengths: np.ndarray) -> np.ndarray:
  """Lucene's 1 / (k1 (1 - b + b length / mean length)), float32 throughout."""
  codes = np.array([_quantised(x) for x in range(lengths.max(initial=0) + 1)])
  texts = max(np.count_nonzero(lengths), 1)
  mean = np.float32(max(lengths.sum(), 1) / texts)
  length = codes[lengths].astype(np.float32)
  return 1 / (K1 * ((1 - B) + B * length / mean))


def _quantised(length: int) -> int:
  """A length as Lucene's norms keep it: exact to 23, then four bits of it.

  See `SmallFloat.intToByte4` and `byte4ToInt` of Lucene.
  """
  free = 24
  if length < free:
    return length
  rest = length - free
  shift = max(rest.bit_length() - 4, 0)
  return free + (rest >> shift << shift)
