"""What the fast engine knows of ALFWorld's PDDL domain.

The engine's actions are written by hand, so a domain is accepted only when
each of its actions means what the engine plays. Actions are compared in a
normal form: comments, layout, order of conjuncts, costs and letter case do not
matter; anything else does. The domain itself (alfworld/data/alfred.pddl) is
part of ALFWorld, Shridhar et al. 2021, https://arxiv.org/abs/2010.03768.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

from envs.alfworld import pddl
from envs.base import GameError

TYPES = ('agent', 'location', 'receptacle', 'object', 'rtype', 'otype')

# Facts that actions change and that are not kept here, since no precondition
# of a known domain reads them; a grammar must not ask about them either.
UNTRACKED = frozenset({'checked', 'ison'})

# The predicates that the engine reads or changes, and their arguments.
_PREDICATES = {
  'atlocation': ('agent', 'location'),
  'receptacleatlocation': ('receptacle', 'location'),
  'objectatlocation': ('object', 'location'),
  'inreceptacle': ('object', 'receptacle'),
  'receptacletype': ('receptacle', 'rtype'),
  'objecttype': ('object', 'otype'),
  'cancontain': ('rtype', 'otype'),
  'holds': ('agent', 'object'),
  'holdsany': ('agent',),
  'openable': ('receptacle',),
  'opened': ('receptacle',),
  **dict.fromkeys(
    ('pickupable', 'cleanable', 'heatable', 'coolable', 'toggleable')
    + ('sliceable', 'isclean', 'ishot', 'iscool', 'istoggled', 'issliced'),
    ('object',),
  ),
}

# Of these, and of the negated facts, actions change the following.
CHANGING = frozenset(
  {'atlocation', 'objectatlocation', 'inreceptacle', 'not_inreceptacle'}
  | {'holds', 'holdsany', 'opened', 'isclean', 'ishot', 'iscool', 'istoggled'}
  | {'issliced'}
)

_NEAR = '(atlocation ?a ?l) (receptacleatlocation ?r ?l)'
_REACHABLE = _NEAR + ' (or (not (openable ?r)) (opened ?r))'

# Name -> parameters, precondition, effect. `(kind ...)` stands for a choice
# among constants of a type, which differs between versions of the domain.
_KNOWN = {
  'look': ('?a agent ?l location', '(atlocation ?a ?l)', '(checked ?l)'),
  'inventory': ('?a agent', '', '(checked ?a)'),
  'help': ('?a agent', '', '(checked ?a)'),
  'examinereceptacle': (
    '?a agent ?r receptacle',
    f'(exists ((?l location)) {_NEAR})',
    '(checked ?r)',
  ),
  # The released domain has a second way to examine, for what lies within
  # reach; its `?l - location,` names a type that nothing has.
  'examineobject': ('?a agent ?o object', '(holds ?a ?o)', '(checked ?o)'),
  'gotolocation': (
    '?a agent ?lstart location ?lend location ?r receptacle',
    '(atlocation ?a ?lstart) (receptacleatlocation ?r ?lend)',
    '(not (atlocation ?a ?lstart)) (atlocation ?a ?lend)',
  ),
  'openobject': (
    '?a agent ?l location ?r receptacle',
    f'{_NEAR} (openable ?r) (not (opened ?r))',
    '(opened ?r) (checked ?r)',
  ),
  'closeobject': (
    '?a agent ?l location ?r receptacle',
    f'{_NEAR} (openable ?r) (opened ?r)',
    '(not (opened ?r))',
  ),
  'pickupobject': (
    '?a agent ?l location ?o object ?r receptacle',
    f'{_REACHABLE} (pickupable ?o) (inreceptacle ?o ?r) (not (holdsany ?a))',
    '(not (inreceptacle ?o ?r)) (holds ?a ?o) (holdsany ?a) '
    '(not (objectatlocation ?o ?l))',
  ),
  'putobject': (
    '?a agent ?l location ?o object ?r receptacle ?ot otype ?rt rtype',
    f'{_REACHABLE} (holds ?a ?o) (objecttype ?o ?ot) (receptacletype ?r ?rt) '
    '(cancontain ?rt ?ot)',
    '(inreceptacle ?o ?r) (objectatlocation ?o ?l) (not (holds ?a ?o)) '
    '(not (holdsany ?a))',
  ),
  'cleanobject': (
    '?a agent ?l location ?r receptacle ?o object',
    f'{_NEAR} (kind receptacletype ?r) (cleanable ?o) (holds ?a ?o)',
    '(isclean ?o)',
  ),
  'heatobject': (
    '?a agent ?l location ?r receptacle ?o object',
    f'{_NEAR} (kind receptacletype ?r) (heatable ?o) (holds ?a ?o)',
    '(ishot ?o) (not (iscool ?o))',
  ),
  'coolobject': (
    '?a agent ?l location ?r receptacle ?o object',
    f'{_NEAR} (kind receptacletype ?r) (coolable ?o) (holds ?a ?o)',
    '(iscool ?o) (not (ishot ?o))',
  ),
  'toggleobject': (
    '?a agent ?l location ?o object ?r receptacle',
    f'{_NEAR} (toggleable ?o) (inreceptacle ?o ?r)',
    '(when (ison ?o) (not (ison ?o))) (when (not (ison ?o)) (ison ?o)) '
    '(istoggled ?o)',
  ),
  'sliceobject': (
    '?a agent ?l location ?co object ?ko object',
    '(kind objecttype ?ko) (sliceable ?co) (atlocation ?a ?l) '
    '(objectatlocation ?co ?l) (holds ?a ?ko)',
    '(issliced ?co)',
  ),
}


class Domain(NamedTuple):
  """A domain that the engine can play.

  Attributes:
    signatures: argument types of every predicate.
    parameters: (name without '?', type) pairs of every action.
    kinds: for the actions that need a tool, the types that serve as one:
      'cleanobject' -> {'sinkbasintype'}.
  """

  signatures: Mapping[str, tuple[str, ...]]
  parameters: Mapping[str, tuple[tuple[str, str], ...]]
  kinds: Mapping[str, frozenset[str]]


class _Action(NamedTuple):
  """An action in normal form."""

  parameters: tuple[tuple[str, str], ...]
  precondition: frozenset[pddl.Expr]
  effect: frozenset[pddl.Expr]
  kinds: frozenset[str]


@functools.lru_cache(maxsize=16)
def read_domain(text: str) -> Domain:
  """Reads and checks a domain; thousands of games share one text.

  Raises:
    GameError: the text is damaged.
    UnsupportedDomain: the domain is not one that the engine plays.
  """
  expr = pddl.read(text)
  if not isinstance(expr, tuple) or expr[:1] != ('define',):
    raise GameError('The domain does not begin with "(define": mend the file.')
  signatures: dict[str, tuple[str, ...]] = {}
  actions: dict[str, _Action] = {}
  for part in expr[1:]:
    match part:
      case ('domain', _) | (':requirements', *_) | (':functions', *_):
        pass
      case (':types', *words):
        _check_types(pddl.typed_list(tuple(words)))
      case (':predicates', *atoms):
        signatures = dict(_signature(atom) for atom in atoms)
      case (':action', str(name), *fields):
        actions[name] = _check_action(name, fields)
      case _:
        raise pddl.unsupported(f'{pddl.show(part)} in the domain')
  for predicate, types in _PREDICATES.items():
    if signatures.get(predicate) != types:
      raise pddl.unsupported(f'a domain without ({predicate}: {types})')
  missing = sorted(_KNOWN.keys() - actions.keys())
  if missing:
    raise pddl.unsupported(f'a domain without the action {missing[0]}')
  return Domain(
    signatures,
    {
      name: tuple((word[1:], kind) for word, kind in action.parameters)
      for name, action in actions.items()
    },
    {name: action.kinds for name, action in actions.items() if action.kinds},
  )


def _check_types(declared: tuple[tuple[str, str], ...]) -> None:
  for name, parent in declared:
    if name not in TYPES or parent != 'object':
      raise pddl.unsupported(f'the type "{name} - {parent}" in the domain')


def _signature(atom: pddl.Expr) -> tuple[str, tuple[str, ...]]:
  if not isinstance(atom, tuple) or not isinstance(atom[0], str):
    raise pddl.unsupported(f'the predicate {pddl.show(atom)}')
  return atom[0], tuple(kind for _, kind in pddl.typed_list(atom[1:]))


def _check_action(name: str, fields: list[pddl.Expr]) -> _Action:
  if name not in _KNOWN:
    raise pddl.unsupported(f'the action {name} in the domain')
  values = dict(zip(fields[::2], fields[1::2], strict=False))
  try:
    parameters = values.pop(':parameters')
    action = _normal_form(
      pddl.typed_list(parameters),
      values.pop(':precondition'),
      values.pop(':effect'),
    )
  except KeyError as error:
    raise GameError(
      f'The action {name} has no {error.args[0]}: mend the file.'
    ) from None
  known = _known_action(name)
  for field in ('parameters', 'precondition', 'effect'):
    if getattr(action, field) != getattr(known, field):
      raise pddl.unsupported(f'the {field} of the action {name}')
  if values or bool(action.kinds) != ('(kind ' in _KNOWN[name][1]):
    raise pddl.unsupported(f'the action {name} in the domain')
  return action


@functools.cache
def _known_action(name: str) -> _Action:
  parameters, precondition, effect = _KNOWN[name]
  words = parameters.split()
  return _normal_form(
    tuple(zip(words[::2], words[1::2], strict=True)),
    pddl.read(f'(and {precondition})'),
    pddl.read(f'(and {effect})'),
  )


def _normal_form(
  parameters: tuple[tuple[str, str], ...],
  precondition: pddl.Expr,
  effect: pddl.Expr,
) -> _Action:
  parts: set[pddl.Expr] = set()
  kinds: set[str] = set()
  for part in map(_simplify, pddl.conjuncts(precondition)):
    choice, constants = _choice(part)
    parts.update(pddl.conjuncts(choice))
    kinds |= constants
  changes = {
    change
    for change in pddl.conjuncts(effect)
    if change[:2] != ('increase', ('total-cost',))
  }
  return _Action(
    tuple(parameters), frozenset(parts), frozenset(changes), frozenset(kinds)
  )


def _simplify(expr: pddl.Expr) -> pddl.Expr:
  """Drops branches that nothing satisfies; orders what has no order."""
  match expr:
    case ('or', *branches):
      kept = {_simplify(branch) for branch in branches} - {('or',)}
      return kept.pop() if len(kept) == 1 else ('or', *sorted(kept, key=str))
    case ('exists', typed, *body) if typed and isinstance(typed[0], str):
      variables = pddl.typed_list(typed)
      if any(kind not in TYPES for _, kind in variables):
        return ('or',)  # nothing is of that type
      return _simplify(('exists', variables, *body))
    case ('exists', variables, *body):
      parts = pddl.conjuncts(('and', *body))
      return ('exists', variables, *sorted(parts, key=str))
  return expr


def _choice(part: pddl.Expr) -> tuple[pddl.Expr, set[str]]:
  """(or (p ?x A) (p ?x B)) -> (kind p ?x), {A, B}; the rest unchanged."""
  atoms = part[1:] if part[0] == 'or' else (part,)
  heads = {atom[:2] for atom in atoms}
  if len(heads) == 1 and all(
    atom[0] in ('receptacletype', 'objecttype')
    and len(atom) == 3
    and not str(atom[2]).startswith('?')
    for atom in atoms
  ):
    return ('kind', *heads.pop()), {str(atom[2]) for atom in atoms}
  return part, set()
