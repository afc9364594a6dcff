"""Porter's stemmer, with the two rules that its author added later.

M. F. Porter, An algorithm for suffix stripping, Program 14(3), 1980; his own
programs differ from the paper in `bli -> ble` and `logi -> log` and leave words
of one or two letters alone (https://tartarus.org/martin/PorterStemmer/).
Lucene's stemmer is that program.
"""

from __future__ import annotations

import re

# A letter that is no vowel is a consonant; y is one at the start of a word and
# after a vowel. Digits and signs count as consonants, as they do in Lucene.
_MEASURE = re.compile('v+c+')  # of a word written in c and v
_STEP_2 = {
  'ational': 'ate', 'tional': 'tion', 'enci': 'ence', 'anci': 'ance',
  'izer': 'ize', 'bli': 'ble', 'alli': 'al', 'entli': 'ent', 'eli': 'e',
  'ousli': 'ous', 'ization': 'ize', 'ation': 'ate', 'ator': 'ate',
  'alism': 'al', 'iveness': 'ive', 'fulness': 'ful', 'ousness': 'ous',
  'aliti': 'al', 'iviti': 'ive', 'biliti': 'ble', 'logi': 'log',
}  # fmt: skip
_STEP_3 = {
  'icate': 'ic', 'ative': '', 'alize': 'al', 'iciti': 'ic', 'ical': 'ic',
  'ful': '', 'ness': '',
}  # fmt: skip
_STEP_4 = (
  'al', 'ance', 'ence', 'er', 'ic', 'able', 'ible', 'ant', 'ement', 'ment',
  'ent', 'ion', 'ou', 'ism', 'ate', 'iti', 'ous', 'ive', 'ize',
)  # fmt: skip


def stem(word: str) -> str:
  """Returns the stem of a lower-case word."""
  if len(word) < 3:
    return word
  word = _plural(word)
  word = _past(word)
  if word.endswith('y') and 'v' in _kinds(word[:-1]):
    word = word[:-1] + 'i'
  word = _replace(word, _STEP_2)
  word = _replace(word, _STEP_3)
  word = _remove(word)
  return _tidy(word)


def _kinds(word: str) -> str:
  """Writes every letter as c or v."""
  kinds: list[str] = []
  for letter in word:
    vowel = letter in 'aeiou' or (letter == 'y' and kinds[-1:] == ['c'])
    kinds.append('v' if vowel else 'c')
  return ''.join(kinds)


def _measure(word: str) -> int:
  """How many times vowels are followed by consonants."""
  return len(_MEASURE.findall(_kinds(word)))


def _doubled(word: str) -> bool:
  return word[-1:] == word[-2:-1] and _kinds(word)[-1:] == 'c'


def _short_end(word: str) -> bool:
  """Whether it ends in consonant, vowel, consonant other than w, x, y."""
  return _kinds(word)[-3:] == 'cvc' and word[-1] not in 'wxy'


def _plural(word: str) -> str:
  if word.endswith(('sses', 'ies')):
    return word[:-2]
  return word[:-1] if word.endswith('s') and word[-2] != 's' else word


def _past(word: str) -> str:
  if word.endswith('eed'):
    return word[:-1] if _measure(word[:-3]) > 0 else word
  for suffix in ('ed', 'ing'):
    if word.endswith(suffix):
      root = word.removesuffix(suffix)
      return _mended(root) if 'v' in _kinds(root) else word
  return word


def _mended(root: str) -> str:
  """Gives back what -ed and -ing took with them."""
  if root.endswith(('at', 'bl', 'iz')):
    return root + 'e'
  if _doubled(root):
    return root if root[-1] in 'lsz' else root[:-1]
  return root + 'e' if _measure(root) == 1 and _short_end(root) else root


def _replace(word: str, table: dict[str, str]) -> str:
  suffix = max((x for x in table if word.endswith(x)), key=len, default='')
  root = word.removesuffix(suffix)
  return root + table[suffix] if suffix and _measure(root) > 0 else word


def _remove(word: str) -> str:
  suffix = max((x for x in _STEP_4 if word.endswith(x)), key=len, default='')
  root = word.removesuffix(suffix)
  if suffix == 'ion' and root[-1:] not in ('s', 't'):
    return word
  return root if suffix and _measure(root) > 1 else word


def _tidy(word: str) -> str:
  if word.endswith('e'):
    root = word[:-1]
    measure = _measure(root)
    if measure > 1 or (measure == 1 and not _short_end(root)):
      word = root
  if word.endswith('ll') and _measure(word[:-1]) > 1:
    word = word[:-1]
  return word
