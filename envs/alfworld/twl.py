"""TextWorld's .twl2 format: the rules and templates of a game's grammar.

A file is a list of `grammar :: <json>;` and of

  action name {
    template :: "open {r}"; feedback :: "#rule#"; grammar :: <json>;
  }

with comments from `#` to the end of the line; <json> stands between triple
quotes. It maps a rule's name to its alternatives, each `{"condition": query,
"rhs": template}`; later rules replace earlier ones of the same name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from envs.alfworld import pddl
from envs.base import GameError

_TOKEN = re.compile(
  r'(?:\s|\#[^\n]*)*(?:"""(?P<block>.*?)"""|(?P<string>"[^"]*")'
  r'|(?P<word>[\w/-]+|::|[;{}]|\Z))',
  re.DOTALL,
)
_Token = tuple[str, str]  # (name of the group in _TOKEN, text)


class Source(NamedTuple):
  """A grammar as written: rules, and (template, feedback) of actions."""

  rules: Mapping[str, list[Mapping[str, str]]]
  actions: Mapping[str, tuple[str, str]]


def read_source(text: str) -> Source:
  """Reads a grammar.

  Raises:
    GameError: the text is damaged.
    UnsupportedDomain: an action has other fields than the usual.
  """
  words: list[_Token] = []
  position = 0
  while position < len(text) or not words:
    match = _TOKEN.match(text, position)
    if not match:
      raise GameError(
        f'The grammar is damaged near "{text[position : position + 40]}": '
        'mend the file.'
      )
    kind = match.lastgroup or ''
    words.append((kind, match[kind]))
    position = match.end()
  rules: dict[str, list[Mapping[str, str]]] = {}
  actions: dict[str, tuple[str, str]] = {}
  tokens = iter(words)
  for token in tokens:
    match token:
      case 'word', 'grammar':
        rules.update(_rules(_field(tokens, 'block')))
      case 'word', 'action':
        name, fields = _action(tokens)
        actions[name.lower()] = fields['template'], fields['feedback']
        lines = fields['grammar'].split('\n')
        kept = [line for line in lines if not line.lstrip().startswith('#')]
        rules.update(_rules('\n'.join(kept)))
      case 'word', '':
        pass
      case _:
        raise GameError(f'The grammar is damaged near "{token[1]}".')
  return Source(rules, actions)


def _action(tokens: Iterator[_Token]) -> tuple[str, dict[str, str]]:
  name = next(tokens, ('', ''))[1]
  word, fields = '', {'grammar': '{}'}
  if next(tokens, None) != ('word', '{'):
    raise GameError(f'The grammar is damaged at action {name}: mend the file.')
  for _, word in tokens:
    if word in ('template', 'feedback'):
      fields[word] = _field(tokens, 'string')[1:-1]
    elif word in ('grammar', 'pddl'):
      fields[word] = _field(tokens, 'block')
    else:
      break
  if word != '}' or len(fields) < 3 or 'pddl' in fields:
    raise pddl.unsupported(f'the action {name} in the grammar')
  return name, fields


def _field(tokens: Iterator[_Token], kind: str) -> str:
  """`:: value ;` -> value."""
  parts = [next(tokens, ('', '')) for _ in range(3)]
  if [parts[0], parts[1][0], parts[2]] != [('word', '::'), kind, ('word', ';')]:
    raise GameError(
      f'The grammar is damaged near "{parts[1][1][:40]}": mend the file.'
    )
  return parts[1][1]


def _rules(block: str) -> dict[str, list[Mapping[str, str]]]:
  try:
    rules = json.loads(block)
    for alternatives in rules.values():
      for alternative in alternatives:
        if not isinstance(alternative['rhs'], str):
          raise TypeError(f'rhs is {alternative["rhs"]!r}, not a text')
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise GameError(
      f'The rules of the grammar are damaged ({error}): mend the file.'
    ) from error
  return rules
