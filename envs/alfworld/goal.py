"""A game's goal: what must hold, and a fast check whether it does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from envs.alfworld import pddl
from envs.alfworld.domain import UNTRACKED
from envs.alfworld.query import Facts, Row

Atom = tuple[str, ...]


class Clause(NamedTuple):
  """There are things such that all atoms hold.

  Attributes:
    types: type of every variable; variables begin with '?'.
    atoms: (predicate, *arguments); ('!=', x, y) says that two things differ.
  """

  types: Mapping[str, str]
  atoms: tuple[Atom, ...]


def read_goal(
  goal: pddl.Expr, signatures: Mapping[str, tuple[str, ...]]
) -> tuple[Clause, ...]:
  """Reads a goal as clauses that must all hold.

  Raises:
    UnsupportedDomain: the goal is more than a conjunction of statements that
      something exists.
  """
  return tuple(_clause(part, signatures) for part in pddl.conjuncts(goal))


def _clause(
  expr: pddl.Expr, signatures: Mapping[str, tuple[str, ...]]
) -> Clause:
  types: dict[str, str] = {}
  atoms: list[Atom] = []
  todo = [expr]
  while todo:
    part = todo.pop(0)
    match part:
      case ('exists', tuple(typed), body):
        new = dict(pddl.typed_list(typed))
        if new.keys() & types.keys():
          raise pddl.unsupported(f'the goal {pddl.show(part)}')
        types |= new
        todo[:0] = pddl.conjuncts(body)
      case ('not', ('=', str(one), str(two))):
        atoms.append(('!=', one, two))
      case (str(predicate), *_) if (
        predicate in signatures and predicate not in UNTRACKED
      ):
        atom = tuple(map(str, part))
        _check_types(atom, types, signatures[predicate])
        atoms.append(atom)
      case _:
        raise pddl.unsupported(f'the goal {pddl.show(part)}')
  used = {word for atom in atoms if atom[0] != '!=' for word in atom[1:]}
  loose = types.keys() - used
  differing = {word for atom in atoms if atom[0] == '!=' for word in atom[1:]}
  if loose or not differing <= types.keys():
    raise pddl.unsupported(f'the goal {pddl.show(expr)}')
  return Clause(types, tuple(dict.fromkeys(atoms)))


def _check_types(
  atom: Atom, types: Mapping[str, str], signature: tuple[str, ...]
) -> None:
  if len(atom) != len(signature) + 1 or any(
    word.startswith('?') and types.get(word) != kind
    for word, kind in zip(atom[1:], signature, strict=True)
  ):
    raise pddl.unsupported(f'the goal {pddl.show(atom)}')


class GoalCheck:
  """Decides whether a goal holds; what never changes is looked up once."""

  def __init__(
    self,
    goal: tuple[Clause, ...],
    types: Mapping[str, str],
    facts: Facts,
    changing: frozenset[str],
  ):
    """Prepares the check for one game.

    Args:
      goal: the clauses.
      types: type of every thing.
      facts: the facts at the start of the game.
      changing: the predicates that actions change.
    """
    self._clauses = [
      _prepare(clause, types, facts, changing) for clause in goal
    ]

  def __call__(self, facts: Facts) -> bool:
    """Whether all clauses hold."""
    return all(_holds(atoms, able, facts) for atoms, able in self._clauses)


def _prepare(
  clause: Clause,
  types: Mapping[str, str],
  facts: Facts,
  changing: frozenset[str],
) -> tuple[tuple[Atom, ...], dict[str, frozenset[str]]]:
  """The atoms left to check in play, and what each word may stand for."""
  able = {word: frozenset([word]) for atom in clause.atoms for word in atom[1:]}
  for variable, kind in clause.types.items():
    able[variable] = frozenset(n for n, k in types.items() if k == kind)
  left = []
  for atom in clause.atoms:
    variables = [i for i, word in enumerate(atom[1:]) if word in clause.types]
    if atom[0] == '!=' or atom[0] in changing or len(variables) != 1:
      left.append(atom)
    else:
      rows = _matching(facts[atom[0]], [able[word] for word in atom[1:]])
      able[atom[1 + variables[0]]] = frozenset(
        row[variables[0]] for row in rows
      )
  decided = {word for atom in left if atom[0] != '!=' for word in atom[1:]}
  for atom in left:
    if not decided.issuperset(atom[1:]):
      raise pddl.unsupported(f'{pddl.show(atom)} in the goal')
  # Few rows first (nothing is clean at the start); '!=' when all is decided.
  return tuple(sorted(left, key=lambda a: (a[0] == '!=', len(a)))), able


def _holds(
  atoms: tuple[Atom, ...], able: Mapping[str, frozenset[str]], facts: Facts
) -> bool:
  """Whether some choice of what is able makes all atoms hold."""
  if not atoms:
    return True
  (predicate, *words), rest = atoms[0], atoms[1:]
  if predicate == '!=':
    return able[words[0]] != able[words[1]] and _holds(rest, able, facts)
  rows = _matching(facts[predicate], [able[word] for word in words])
  if not rest:
    return bool(rows)
  for row in rows:
    decided = map(frozenset, zip(row, strict=True))  # sets of one value
    if _holds(rest, {**able, **dict(zip(words, decided, strict=True))}, facts):
      return True
  return False


def _matching(rows: Iterable[Row], able: list[frozenset[str]]) -> list[Row]:
  """The rows whose every value is able."""
  if len(able) == 2:
    first, second = able
    return [row for row in rows if row[0] in first and row[1] in second]
  return [row for row in rows if all(map(frozenset.__contains__, able, row))]
