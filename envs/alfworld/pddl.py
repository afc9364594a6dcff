"""The part of PDDL that ALFWorld's files use: expressions and problems.

PDDL does not tell upper from lower case; everything here is lower case.
Specification: McDermott et al. 1998, "PDDL - The Planning Domain Definition
Language"; types and axioms as in PDDL 2.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from envs.base import GameError, UnsupportedDomain

# An expression: a word, or a tuple of expressions.
Expr = str | tuple['Expr', ...]

_COMMENT = re.compile(r';[^\n]*')
_TOKEN = re.compile(r'[()]|[^\s()]+')
_HEADER = re.compile(r'\(\s*(:[\w-]+)')
_FACT = re.compile(r'\(([^()]*)\)')
_SECTIONS = [':domain', ':objects', ':init', ':goal']


class Problem(NamedTuple):
  """One start state and goal.

  Attributes:
    types: type of every declared name.
    facts: the rows of every predicate that holds at the start: predicate ->
      set of argument tuples.
    goal: the goal expression, as written.
  """

  types: Mapping[str, str]
  facts: Mapping[str, frozenset[tuple[str, ...]]]
  goal: Expr


def unsupported(what: str) -> UnsupportedDomain:
  """The refusal of something that the fast engine was not written for."""
  return UnsupportedDomain(
    f'The fast engine does not understand {what}. '
    'Play this game with engine=textworld.'
  )


def show(expr: Expr) -> str:
  """The expression as PDDL, cut to a readable length."""
  if isinstance(expr, str):
    return expr
  text = '(' + ' '.join(show(part) for part in expr) + ')'
  return text if len(text) <= 80 else text[:77] + '...'


def read(text: str) -> Expr:
  """Reads one expression; `GameError` where brackets do not match."""
  stack: list[list[Expr]] = [[]]
  for token in _TOKEN.findall(_COMMENT.sub('', text).lower()):
    if token == '(':
      stack.append([])
    elif token == ')':
      if len(stack) == 1:
        raise GameError('PDDL has a ")" without its "(": mend the file.')
      done = tuple(stack.pop())
      stack[-1].append(done)
    else:
      stack[-1].append(token)
  if len(stack) != 1 or len(stack[0]) != 1:
    raise GameError(
      'PDDL must be one bracketed expression, but brackets are missing or '
      f'something follows it near "{text.strip()[:60]}": mend the file.'
    )
  return stack[0][0]


def typed_list(words: Expr) -> tuple[tuple[str, str], ...]:
  """('a', 'b', '-', 't') -> (('a', 't'), ('b', 't')); no type is 'object'."""
  pairs: list[tuple[str, str]] = []
  waiting: list[str] = []
  rest = iter(words)
  for word in rest:
    if not isinstance(word, str):
      raise unsupported(f'the type of {show(words)}')
    if word != '-':
      waiting.append(word)
      continue
    kind = next(rest, None)
    if not isinstance(kind, str):
      raise unsupported(f'the type of {show(words)}')
    pairs += [(name, kind) for name in waiting]
    waiting = []
  return tuple(pairs + [(name, 'object') for name in waiting])


def conjuncts(expr: Expr) -> tuple[Expr, ...]:
  """The parts of a conjunction, nested ones opened; () has none."""
  if not expr:
    return ()
  if expr[0] != 'and':
    return (expr,)
  return tuple(part for child in expr[1:] for part in conjuncts(child))


def read_problem(
  text: str, signatures: Mapping[str, tuple[str, ...]]
) -> Problem:
  """Reads a problem and checks its facts against the domain.

  Args:
    text: the problem; sections :objects, :init, :goal in this order.
    signatures: argument types of every predicate of the domain.

  Raises:
    GameError: a section is missing or damaged, a fact does not fit the domain.
    UnsupportedDomain: a section or fact that ALFWorld's problems do not have.
  """
  sections = _sections(_COMMENT.sub('', text).lower())
  objects = sections[':objects'].strip()
  if '(' in objects or not objects.endswith(')'):
    raise GameError(
      'The :objects of the problem are no plain list: mend the file.'
    )
  types = dict(typed_list(tuple(objects[:-1].split())))
  facts = _facts(sections[':init'], types, signatures)
  # Two brackets of the goal's section were opened before its header ended.
  goal = read('((' + sections[':goal'])[0]
  if len(goal) != 1:
    raise GameError('The problem has not exactly one :goal: mend the file.')
  return Problem(types, facts, goal[0])


def _sections(text: str) -> dict[str, str]:
  """Header -> what stands between it and the next header."""
  headers = list(_HEADER.finditer(text))
  names = [match[1] for match in headers]
  for name in names:
    if name not in _SECTIONS:
      raise unsupported(f'section {name} of the problem')
  if names != _SECTIONS:
    raise GameError(
      f'The problem has the sections {" ".join(names) or "(none)"} where '
      f'{" ".join(_SECTIONS)} are needed, in this order: mend the file.'
    )
  ends = [match.start() for match in headers[1:]] + [len(text)]
  return {
    match[1]: text[match.end() : end]
    for match, end in zip(headers, ends, strict=True)
  }


def _facts(
  text: str,
  types: Mapping[str, str],
  signatures: Mapping[str, tuple[str, ...]],
) -> dict[str, frozenset[tuple[str, ...]]]:
  rows: dict[str, set[tuple[str, ...]]] = {name: set() for name in signatures}
  atoms = _FACT.findall(text)
  if text.count('(') != len(atoms) or text.count(')') != len(atoms) + 1:
    raise unsupported('an :init that is not a plain list of facts')
  for atom in atoms:
    name, *arguments = atom.split() or ['']
    row = tuple(arguments)
    if signatures.get(name) != tuple(map(types.get, row)):
      raise _misfit(name, row, types, signatures)
    rows[name].add(row)
  return {name: frozenset(some) for name, some in rows.items()}


def _misfit(
  name: str,
  row: tuple[str, ...],
  types: Mapping[str, str],
  signatures: Mapping[str, tuple[str, ...]],
) -> GameError:
  if name not in signatures:
    expected = 'the domain declares no such predicate'
  else:
    expected = f'the domain declares ({" ".join((name, *signatures[name]))})'
  got = ' '.join(types.get(word, 'undeclared') for word in row)
  return GameError(
    f'The problem holds the fact ({" ".join((name, *row))}) of types ({got}), '
    f'but {expected}: mend the file.'
  )
