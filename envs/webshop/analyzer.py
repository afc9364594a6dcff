"""From text to index terms, as Lucene's English analyzer does it.

Words by the rules of Unicode's annex 29, as far as Lucene's grammar follows
them (its `StandardTokenizerImpl.jflex`): emoji are words, a colon between
letters joins them, runs of south-east Asian script stay whole, Han and hiragana
are split into characters. Then: lower case, possessive 's off, stop words out,
Porter's stemmer.
"""

from __future__ import annotations

import functools
import re

import regex

from envs.webshop.porter import stem

_STOP_WORDS = (
  'a an and are as at be but by for if in into is it no not of on or such that '
  'the their then there these they this to was will with'
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
_POSSESSIVE = ("'s", '\u2019s', '\uff07s')
_LONGEST = 255  # characters; Lucene cuts a longer word there


def _grammar() -> str:
  """Lucene's grammar, written so that greedy means longest and runs are linear.

  Every alternative within a word eats one letter or number, together with a
  sign behind it where that joins it to the next; nothing is ever given back.
  """
  letter = _marked(r'\p{WB=ALetter}\p{WB=Hebrew_Letter}')
  mid = _marked(r"\p{WB=MidLetter}\p{WB=MidNumLet}'")
  hebrew = _marked(r'\p{WB=Hebrew_Letter}')
  single, double = _marked("'"), _marked('"')
  number = _marked(r'\p{WB=Numeric}\uFF10-\uFF19')
  point = _marked(r"\p{WB=MidNum}\p{WB=MidNumLet}'")
  katakana = _marked(r'\p{WB=Katakana}')
  join = _marked(r'\p{WB=ExtendNumLet}')
  part = (
    f'(?:{katakana}++|(?:{hebrew}(?:{double}(?={hebrew})|{single})'
    f'|{letter}(?:{mid}(?={letter}))?+|{number}(?:{point}(?={number}))?+)++)'
  )
  word = f'{join}{{,{_LONGEST}}}+{part}(?:{join}++{part})*+{join}*+'
  thai = _marked(r'\p{LB=SA}') + '++'
  character = _marked(r'\p{Script=Han}\p{Script=Hiragana}')
  flag = _marked(r'\p{WB=Regional_Indicator}') + '{2}'
  return '|'.join((word, thai, character, flag, _emoji()))


def _marked(chars: str) -> str:
  """One of these; marks and format characters belong to what they follow."""
  return rf'(?:[{chars}][\p{{WB=Extend}}\p{{WB=Format}}\p{{WB=ZWJ}}]*+)'


def _emoji() -> str:
  """Emoji sequences of Unicode's technical standard 51."""
  marks = (
    r'[[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]'
    r'--[\uFE0E\uFE0F\U000E0020-\U000E007F]]*+'
  )
  # Lucene's table is older than Unicode 16, which took these out again.
  plain = (
    r'[\p{Extended_Pictographic}\u2388\u2600-\u2605\u2607-\u2612\u2614-\u2685'
    r'\u2690-\u2705\u2708-\u2712\u2763-\u2767\U0001F000-\U0001F0FF'
    r'\U0001F10D-\U0001F10F\U0001F12F\U0001F16C-\U0001F171'
    r'\U0001F1AD-\U0001F1E5\U0001F249-\U0001F3FA\U0001F400-\U0001F53D'
    r'\U0001F546-\U0001F64F\U0001F680-\U0001F6FF\U0001F774-\U0001F77F'
    r'\U0001F7D5-\U0001F7FF\U0001F8AE-\U0001F8FF]'
  )
  modifier = rf'\p{{Emoji_Modifier}}{marks}'
  one = (
    rf'(?:{plain}{marks}(?:(?<=\p{{Emoji_Modifier_Base}}){modifier}|\uFE0F)?+'
    rf'|{modifier})'
  )
  # The marks behind an emoji may end with the joiner of the next.
  joined = rf'(?:(?:(?<=\u200D)|\u200D)\u200D*+{one})*+'
  tag = r'[\U000E0020-\U000E007E]++\U000E007F'
  key = rf'[0-9#*]\uFE0F?\u20E3{marks}'
  return rf'\u200D{{,{_LONGEST}}}+{one}(?:{tag}|{joined})|{key}'


_WORD = regex.compile(_grammar(), regex.VERSION1)
# The same for ASCII, where there are letters, digits and a few signs only.
_ASCII_PART = r"(?:[a-z](?:[.:'](?=[a-z]))?+|[0-9](?:[.,;'](?=[0-9]))?+)++"
_ASCII_WORD = re.compile(
  f'_{{,{_LONGEST}}}+{_ASCII_PART}(?:_++{_ASCII_PART})*+_*+'
)


def words(text: str) -> list[str]:
  """Splits lower-case text into words."""
  pattern = _ASCII_WORD if text.isascii() else _WORD
  result, start = [], 0
  while match := pattern.search(text, start):
    if match.end() - match.start() > _LONGEST:
      begin = match.start()
      match = pattern.match(text, begin, begin + _LONGEST) or match
    result.append(match.group())
    start = match.end()
  return result


@functools.lru_cache(maxsize=2**16)
def term(word: str) -> str:
  """The index term of a word; '' for a stop word."""
  if word.endswith(_POSSESSIVE):
    word = word[:-2]
  return '' if word in STOP_WORDS else stem(word)


def analyze(text: str) -> list[str]:
  """Returns the index terms of a text, in order."""
  # No word goes on over a space, so that each piece may be plain ASCII.
  pieces = text.lower().split()
  terms = [term(word) for piece in pieces for word in words(piece)]
  return [x for x in terms if x]
