"""What may become one token: the names and the phrases that a text repeats.

In text about numbered things (`You arrive at fridge 1. In it, you see a apple
2.`) what stands between two names repeats. So a name with its number is one
piece, and so is the glue between two of them; a thing is the same piece in an
observation and in a command, which lets a small policy copy it. Nothing here
is written for one world: names and phrases are found in its text.
"""

from __future__ import annotations

import collections
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

# How a thing is recognised; `{names}` are the words that carry a number
# somewhere in the text, so that `apple` in a task is a piece of its own too.
# The blank before a thing belongs to it, as it does to any word: a list that
# has nothing but blanks between its things then costs one token for each.
NAME_WITH_NUMBER = r' ?\b(?:{names})(?: [0-9]+)?\b| ?\b[a-z]+ [0-9]+\b'
NAME_THEN_NUMBER = r' ?\b(?:{names})\b| [0-9]+\b'
_NUMBERED = re.compile(r'\b([a-z]+) [0-9]+\b')
# Everything else: a word, a digit, a run of symbols, a blank. Covers any text.
_REST = r' ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s'


def learn_pattern(
  texts: Iterable[str],
  *,
  entity: str = NAME_WITH_NUMBER,
  max_phrases: int = 256,
) -> str:
  """Finds the names in `texts` and the phrases that repeat between them.

  Phrases end at line ends. `NAME_WITH_NUMBER` makes `fridge 1` one piece,
  `NAME_THEN_NUMBER` makes it `fridge` and ` 1` (longer prompts, but no number
  is unknown).

  Args:
    texts: what will be read and written; a Counter is understood as such.
    entity: regular expression of a thing; `{names}` is filled in.
    max_phrases: how many phrases the pattern may name.

  Returns: a regular expression (Oniguruma) of the pieces of a text.
  """
  lines: collections.Counter[str] = collections.Counter()
  for text, count in collections.Counter(texts).items():
    for line in text.splitlines(keepends=True):
      lines[line] += count
  names = {name for line in lines for name in _NUMBERED.findall(line)}
  entity = entity.format(names=any_of(names) or r'[^\s\S]')  # or nothing
  # `removed` drops the things and leaves what stands between them.
  glue = pre_tokenizers.Split(tokenizers.Regex(entity), 'removed')
  learned = most_saved(count_pieces(lines, glue))[:max_phrases]
  parts = [entity, any_of(learned), _REST]
  return '|'.join(filter(None, parts))


def count_pieces(
  counts: Mapping[str, int], splitter: pre_tokenizers.PreTokenizer
) -> collections.Counter[str]:
  """Counts the pieces of texts that occur `counts` times."""
  pieces: collections.Counter[str] = collections.Counter()
  for text, count in counts.items():
    for piece, _ in splitter.pre_tokenize_str(text):
      pieces[piece] += count
  return pieces


def most_saved(pieces: Mapping[str, int]) -> list[str]:
  """Repeated pieces of two bytes and more, by the bytes a token of each saves.

  The text breaks ties, so that the order is the same on every machine.
  """
  kept = [p for p, count in pieces.items() if count > 1 and len(p) > 1]
  return sorted(kept, key=lambda p: (-pieces[p] * (len(p) - 1), p))


def any_of(words: Iterable[str]) -> str:
  """A pattern for the longest of `words` that stands here, whole words only.

  A tree of common prefixes, because a plain list of alternatives is tried one
  by one at every position and made up most of the time of encoding.
  """
  heads: dict[str, list[str]] = {}
  for word in sorted(words):
    heads.setdefault(word[0], []).append(word)
  return '|'.join(
    (r'\b' if head.isalnum() else '') + _prefix_tree(group)
    for head, group in heads.items()
  )


def _prefix_tree(words: Sequence[str]) -> str:
  """The pattern of `any_of` for words that share their first character."""
  head = os.path.commonprefix(words)
  tails: dict[str, list[str]] = {}
  for word in words:
    tails.setdefault(word[len(head) : len(head) + 1], []).append(
      word[len(head) :]
    )
  ends = tails.pop('', None) is not None
  branches = [_prefix_tree(group) for group in tails.values()]
  if ends:  # last: a longer word goes first
    branches.append(r'\b' if head[-1].isalnum() else '')
  return re.escape(head) + (f'(?:{"|".join(branches)})' if branches else '')


def spelling(
  pieces: Iterable[str], num_merges: int
) -> tuple[list[str], list[tuple[str, str]]]:
  """Tokens and merges for spelling; each distinct piece counts once.

  Frequent pieces are tokens as a whole, so how often a piece occurs says
  nothing about what will have to be spelled.
  """
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  model = tokenizers.Tokenizer(models.BPE())
  # Pieces are in the alphabet of bytes, where `Ġ` stands for a blank. Words
  # are learned apart, or the links between them would take up the merges.
  model.pre_tokenizer = pre_tokenizers.Split(
    tokenizers.Regex('Ġ?[^Ġ]+'), 'isolated'
  )
  trainer = trainers.BpeTrainer(
    vocab_size=len(alphabet) + num_merges,
    initial_alphabet=sorted(alphabet),
    show_progress=False,
  )
  model.train_from_iterator(sorted(pieces), trainer)
  trained = json.loads(model.to_str())['model']
  tokens = sorted(trained['vocab'], key=trained['vocab'].__getitem__)
  return tokens, [(left, right) for left, right in trained['merges']]
