"""Conjunctive queries over facts: the conditions in a game's grammar.

`inreceptacle(o:object, r:receptacle) & ...` asks for every way to name things
such that all parts are facts. Two rules of TextWorld's that matter here: two
names never stand for the same thing, and a part `not_p(...)` asks for a *fact*
of that name, which is there only after an action made p(...) false.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Set
from typing import NamedTuple

from envs.alfworld import pddl
from envs.alfworld.domain import UNTRACKED

Row = tuple[str, ...]
# Predicate -> its rows, in any collection; ids are lower-case PDDL names.
Facts = Mapping[str, Set[Row]]
# Name in the grammar -> id of the thing that it stands for.
Binding = Mapping[str, str]
# All bindings that extend the given one and satisfy the query, in the order
# of the reference: part by part, rows sorted.
Query = Callable[[Facts, Binding], list[Binding]]

# The negated facts that are kept. Nothing untoggles, so the second is empty.
NEGATED = ('not_inreceptacle', 'not_istoggled')

_PART = re.compile(r'\s*([\w-]+)\s*\(\s*([^()]*?)\s*\)\s*')
_NAME = re.compile(r'(\w+)\s*:\s*(\w+)')


class _Part(NamedTuple):
  """`predicate(names)`; new names are bound by it, the others before it."""

  predicate: str
  names: tuple[str, ...]
  new: tuple[int, ...]  # positions
  old: tuple[int, ...]  # positions


def compile_query(
  text: str,
  scope: Mapping[str, str],
  signatures: Mapping[str, tuple[str, ...]],
) -> tuple[Query, dict[str, str]]:
  """Compiles a query for bindings of the names in `scope`.

  Args:
    text: `p(x:type, y:type) & q(...)`.
    scope: name -> type of what is bound before.
    signatures: argument types of every predicate.

  Returns: the query, and the scope that its bindings have.

  Raises:
    UnsupportedDomain: the text is no such query, or asks about facts that the
      engine does not keep.
  """
  known = dict(scope)
  parts = []
  for piece in text.split('&'):
    match = _PART.fullmatch(piece)
    if not match:
      raise pddl.unsupported(f'the condition "{text}" in the grammar')
    parts.append(_compile_part(match[1], match[2], known, signatures))
  steps = tuple(parts)
  return (lambda facts, binding: _answers(steps, facts, binding)), known


def _compile_part(
  predicate: str,
  arguments: str,
  known: dict[str, str],
  signatures: Mapping[str, tuple[str, ...]],
) -> _Part:
  positive = predicate.removeprefix('not_')
  if (
    positive not in signatures
    or positive in UNTRACKED
    or (positive != predicate and predicate not in NEGATED)
  ):
    raise pddl.unsupported(f'a condition on {predicate} in the grammar')
  typed = [_NAME.fullmatch(word.strip()) for word in arguments.split(',')]
  types = tuple(match and match[2] for match in typed)
  names = tuple(match[1] for match in typed if match)
  bound = tuple(known.get(name) for name in names)
  if (
    types != signatures[positive]
    or len(set(names)) != len(names)
    or any(a not in (None, b) for a, b in zip(bound, types, strict=True))
  ):
    raise pddl.unsupported(
      f'the arguments of {predicate}({arguments}) in the grammar'
    )
  new = tuple(i for i, name in enumerate(names) if name not in known)
  old = tuple(i for i, name in enumerate(names) if name in known)
  known.update(zip(names, types, strict=True))
  return _Part(predicate, names, new, old)


def _answers(
  parts: tuple[_Part, ...], facts: Facts, binding: Binding
) -> list[Binding]:
  answers: list[Binding] = [binding]
  for part in parts:
    if part.new:
      answers = [new for old in answers for new in _extended(part, facts, old)]
    else:
      names, rows = part.names, facts[part.predicate]
      answers = [b for b in answers if tuple([b[n] for n in names]) in rows]
    if not answers:
      break
  return answers


def _extended(part: _Part, facts: Facts, binding: Binding) -> list[Binding]:
  """Every way to bind the new names of one part, in the order of the rows."""
  predicate, names, new, old = part
  rows: Iterable[Row] = facts[predicate]
  for i in old:
    value = binding[names[i]]
    rows = [row for row in rows if row[i] == value]
  used = set(binding.values())
  answers: list[Binding] = []
  for row in sorted(rows):
    values = {row[i] for i in new}
    if len(values) == len(new) and used.isdisjoint(values):
      answers.append({**binding, **{names[i]: row[i] for i in new}})
  return answers
