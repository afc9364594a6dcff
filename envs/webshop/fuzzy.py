"""How alike two texts are as sets of words, from 0 to 100.

The measure is `token_set_ratio` of fuzzywuzzy's descendants, with which WebShop
compares attributes and options (https://github.com/seatgeek/thefuzz).
"""

from __future__ import annotations

import functools
import re

_OTHER = re.compile(r'\W')
# It drops these and keeps letters beyond them.
_LATIN_1 = dict.fromkeys(range(128, 256))


@functools.lru_cache(maxsize=2**16)
def token_set_ratio(a: str, b: str) -> int:
  """Compares the words that are shared, and those with either side's rest.

  Returns: 100 where all words of one text are in the other; 0 where one has no
    word.
  """
  first, second = _words(a), _words(b)
  if not first or not second:
    return 0
  shared = ' '.join(sorted(first & second))
  mine = f'{shared} {" ".join(sorted(first - second))}'.strip()
  yours = f'{shared} {" ".join(sorted(second - first))}'.strip()
  pairs = ((mine, yours), (shared, mine), (shared, yours))
  return max(_ratio(x, y) for x, y in pairs)


def _words(text: str) -> set[str]:
  return set(_OTHER.sub(' ', text.translate(_LATIN_1)).lower().split())


def _ratio(a: str, b: str) -> int:
  """Twice the longest common subsequence over both lengths, in per cent."""
  if not a or not b:
    return 0
  return round(100 * 2 * _common(a, b) / (len(a) + len(b)))


def _common(a: str, b: str) -> int:
  """Length of the longest common subsequence, one bit per letter of `a`.

  Hyyro, Bit-parallel LCS-length computation revisited, AWOCA 2004.
  """
  places: dict[str, int] = {}
  for i, letter in enumerate(a):
    places[letter] = places.get(letter, 0) | 1 << i
  full = (1 << len(a)) - 1
  row = full
  for letter in b:
    matched = row & places.get(letter, 0)
    row = (row + matched | row - matched) & full
  return len(a) - row.bit_count()
