"""A game's grammar: commands and feedback texts as functions of the facts.

A grammar has named rules, and for each action a command template and a feedback
template (`twl.py` reads them). A template mixes words with

  #rule#               the text of the first alternative whose condition holds
  {expression}         what a thing is called: r.name, o.indefinite + ' ' + ...
  {... | query}        the same for every answer of the query, joined
  [{... | query}]      the same as a list: "a, b, and c", or "nothing"

Templates are compiled once into functions of (scene, binding); games that
differ only in the sentence of the task share the compiled rest.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from envs.alfworld import pddl
from envs.alfworld.domain import CHANGING
from envs.alfworld.query import Binding, Facts, Query, compile_query
from envs.alfworld.twl import Source, read_source

Parameters = Mapping[str, tuple[tuple[str, str], ...]]
Signatures = Mapping[str, tuple[str, ...]]

# The rule with the task's sentence, where it is plain words as in every game.
_TASK = re.compile(
  r'("task"\s*:\s*\[\s*\{\s*"rhs"\s*:\s*)"([^"\\;|<>\[\]#{}]*)"(\s*\}\s*\])'
)
_SYMBOL = re.compile(
  r"""\t*(?:
  (?P<open>\[)?\{(?P<item>[^|\[\]{}\n<>]+)
    (?:\|(?P<query>[^;|{}\n\[\]#]+))?\}(?P<close>\])?
  |\#(?P<rule>[\w()/!<>\-\s,.]+)\#
  |(?P<words>[^;|"<>\[\]#{}]+))""",
  re.VERBOSE,
)
# A command that says where the agent stands.
_WHERE = re.compile(r'\bl(?:start)?\s*[:.}]')
# Blanks, or a // line, at the very start of a template are no text.
_LEADING = re.compile(r'\A(?://[^\n]*|\s*)\n?')


class Scene(NamedTuple):
  """What a text is about: what holds, what things are called, the task."""

  facts: Facts
  names: Mapping[str, str]  # id -> display name
  task: str


Text = Callable[[Scene, Binding], str]


class Grammar(NamedTuple):
  """The compiled texts of one domain.

  Attributes:
    commands: action -> its command, such as "take apple 1 from fridge 1".
    feedback: action -> what the agent reads after it.
    intro: what the agent reads first.
  """

  commands: Mapping[str, Text]
  feedback: Mapping[str, Text]
  intro: Text


def read_grammar(
  text: str, parameters: Parameters, signatures: Signatures
) -> tuple[Grammar, str]:
  """Compiles a grammar for the actions of a domain.

  Args:
    text: the grammar.
    parameters: (name, type) pairs of every action of the domain.
    signatures: argument types of every predicate of the domain.

  Returns: the grammar, and the task's sentence for `Scene.task`.

  Raises:
    GameError: the text is damaged.
    UnsupportedDomain: a template or condition that is not understood.
  """
  domain = tuple(sorted(parameters.items())), tuple(sorted(signatures.items()))
  tasks = _TASK.findall(text)
  if len(tasks) != 1 or text.count('"task"') != 1:
    return _compile_grammar(text, *domain, False), ''
  # Without its sentence the text is the same for thousands of games.
  shared = _TASK.sub(r'\1""\3', text)
  return _compile_grammar(shared, *domain, True), _trim(tasks[0][1])


@functools.lru_cache(maxsize=64)
def _compile_grammar(
  text: str,
  parameters: tuple[tuple[str, tuple[tuple[str, str], ...]], ...],
  signatures: tuple[tuple[str, tuple[str, ...]], ...],
  task_from_scene: bool,
) -> Grammar:
  source = read_source(text)
  rules: dict[str, Text] = {}
  if task_from_scene:
    rules['task'] = lambda scene, binding: scene.task
  compiler = _Compiler(source, dict(signatures), rules)
  # Commands are composed once: nothing in them may depend on the moment.
  lasting = {p: types for p, types in signatures if p not in CHANGING}
  composer = _Compiler(source, lasting, rules)
  commands, feedback = {}, {}
  for action, typed in parameters:
    if action not in source.actions:
      raise pddl.unsupported(f'a grammar without the action {action}')
    command, answer = source.actions[action]
    if _WHERE.search(command):
      raise pddl.unsupported(f'"{command}" in the grammar')
    commands[action] = composer.template(command, dict(typed))
    feedback[action] = compiler.template(answer, dict(typed))
  return Grammar(commands, feedback, compiler.rule('intro', {}))


def _trim(template: str) -> str:
  return _LEADING.sub('', template, count=1)


class _Compiler:
  """Compiles templates; what is bound is known at compile time (the scope)."""

  def __init__(
    self, source: Source, signatures: Signatures, rules: dict[str, Text]
  ):
    self._source = source
    self._signatures = signatures
    self._fixed = rules  # name -> text that is not in the source
    self._done: dict[tuple, Text] = {}
    self._open: list[str] = []  # rules being compiled, to notice a circle

  def rule(self, name: str, scope: Mapping[str, str]) -> Text:
    if name in self._fixed:
      return self._fixed[name]
    key = name, tuple(sorted(scope.items()))
    if key not in self._done:
      if name in self._open or not self._source.rules.get(name):
        raise pddl.unsupported(f'the rule #{name}# in the grammar')
      self._open.append(name)
      self._done[key] = self._alternatives(name, scope)
      self._open.pop()
    return self._done[key]

  def _alternatives(self, name: str, scope: Mapping[str, str]) -> Text:
    """The first alternative whose condition holds."""
    choices: list[tuple[Query, Text]] = []
    for alternative in self._source.rules[name]:
      text = self.template(alternative['rhs'], scope)
      condition = alternative.get('condition')
      if not condition:
        return _first(tuple(choices), text)
      query, _ = compile_query(condition, scope, self._signatures)
      choices.append((query, text))
    raise pddl.unsupported(f'the rule #{name}# without a default')

  def template(self, template: str, scope: Mapping[str, str]) -> Text:
    template = _trim(template)
    parts: list[Text] = []
    position = 0
    while position < len(template):
      match = _SYMBOL.match(template, position)
      if not match or bool(match['open']) != bool(match['close']):
        raise pddl.unsupported(f'"{template[position:]}" in the grammar')
      parts.append(self._symbol(match, scope))
      position = match.end()
    if len(parts) == 1:
      return parts[0]
    texts = tuple(parts)
    return lambda scene, binding: ''.join(
      [part(scene, binding) for part in texts]
    )

  def _symbol(self, match: re.Match, scope: Mapping[str, str]) -> Text:
    if match['words']:
      words = match['words']
      return lambda scene, binding: words
    if match['rule']:
      return self.rule(match['rule'], scope)
    if not match['query']:
      return self._item(match['item'], scope)
    query, inner = compile_query(match['query'], scope, self._signatures)
    item = self._item(match['item'], inner)
    if not match['open']:
      return lambda scene, binding: ''.join(
        [item(scene, answer) for answer in query(scene.facts, binding)]
      )
    empty, comma, last = (
      self.rule(f'list_{name}', scope)
      for name in ('empty', 'separator', 'last_separator')
    )

    def listing(scene: Scene, binding: Binding) -> str:
      items = [item(scene, answer) for answer in query(scene.facts, binding)]
      if not items:
        return empty(scene, binding)
      if len(items) == 1:
        return items[0]
      head = comma(scene, binding).join(items[:-1])
      return head + last(scene, binding) + items[-1]

    return listing

  def _item(self, item: str, scope: Mapping[str, str]) -> Text:
    item = item.strip()
    if item.startswith('#') and item.endswith('#'):
      return self.rule(item[1:-1], scope)
    try:
      return _expression(ast.parse(item, mode='eval').body, scope)
    except SyntaxError:
      raise pddl.unsupported(f'"{item}" in the grammar') from None


def _first(choices: tuple[tuple[Query, Text], ...], default: Text) -> Text:
  if not choices:
    return default

  def text(scene: Scene, binding: Binding) -> str:
    for query, answer in choices:
      if query(scene.facts, binding):
        return answer(scene, binding)
    return default(scene, binding)

  return text


def _expression(node: ast.expr, scope: Mapping[str, str]) -> Text:
  """What a thing is called; the few forms of Python that grammars use."""
  match node:
    case ast.Constant(value=str(words)):
      return lambda scene, binding: words
    case ast.Name(id=name) | ast.Attribute(ast.Name(id=name), attr='name') if (
      name in scope
    ):
      return lambda scene, binding: scene.names[binding[name]]
    case ast.Attribute(ast.Name(id=name), attr='id') if name in scope:
      return lambda scene, binding: binding[name]
    case ast.Attribute(ast.Name(id=name), attr='indefinite') if name in scope:
      return lambda scene, binding: 'a'
    case ast.Attribute(ast.Name(id=name), attr='definite') if name in scope:
      return lambda scene, binding: 'the'
    case ast.BinOp(left, ast.Add(), right):
      one, two = _expression(left, scope), _expression(right, scope)
      return lambda scene, binding: one(scene, binding) + two(scene, binding)
    case ast.BoolOp(ast.Or(), values):
      texts = [_expression(value, scope) for value in values]
      return lambda scene, binding: next(
        filter(None, (text(scene, binding) for text in texts)), ''
      )
  raise pddl.unsupported(f'"{ast.unparse(node)}" in the grammar')
