"""The agent layer: what a policy reads each turn, and how its reply acts.

A template is data, so that a checkpoint trained with other words can be played
with them: `load_template` reads one from a JSON file with the fields below.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from envs.base import EnvError, Step


class TemplateError(EnvError):
  """A template file lacks a field, has an unknown one, or a bad placeholder."""


@dataclasses.dataclass(frozen=True)
class Template:
  """The words around one turn.

  `first` and `later` may use {task}, {history}, {taken} (steps taken
  so far), {shown} (history pairs shown), {step} (number of this step, from 1),
  {observation} and {admissible}.

  Attributes:
    first: the user message at step 0, and at every step when K = 0.
    later: the user message with history.
    history_line: one past pair; may use {step}, {observation}, {action}.
    history_join: between two pairs.
    admissible_line: one admissible action; may use {action}.
    admissible_join: between two of them.
    hidden_actions: admissible actions that are not listed and, under
      constrained decoding, not offered.
    replace: (pattern, replacement) pairs applied in order to observations
      before they are shown; grouping always sees the raw text.
    task_pattern: regex whose group 1 is the task, searched in the first
      observation; the whole text where it does not match.
    reply: how a demonstrated action is written; uses {action}.
    projection: 'tags' (think and action tags, as in the paper's runs) or
      'bare' (the reply is the action).
    tail_chars: under 'tags', what is played when a tag is missing: the last
      that many characters of the reply.
    check_admissible: whether an inadmissible action makes a reply invalid.
  """

  first: str
  later: str
  history_line: str = '{observation} {action}'
  history_join: str = '\n'
  admissible_line: str = "'{action}'"
  admissible_join: str = '\n '
  hidden_actions: tuple[str, ...] = ()
  replace: tuple[tuple[str, str], ...] = ()
  task_pattern: str = r'(?s)(.*)'
  reply: str = '{action}'
  projection: str = 'bare'
  tail_chars: int = 30
  check_admissible: bool = False


class Turn(NamedTuple):
  """One past turn: what was shown (raw) and the projected action."""

  observation: str
  action: str


class Projected(NamedTuple):
  """What a reply does: the action played, and whether it was well formed."""

  action: str
  valid: bool


def task_text(template: Template, first_observation: str) -> str:
  """Returns the task as the first observation states it."""
  match = re.search(template.task_pattern, first_observation)
  task = match.group(1) if match else None
  return (first_observation if task is None else task).strip()


def shown(template: Template, observation: str) -> str:
  """Returns an observation as the template words it."""
  for pattern, replacement in template.replace:
    observation = re.sub(pattern, replacement, observation)
  return observation.strip()


def offered(template: Template, admissible: Sequence[str]) -> list[str]:
  """Returns the admissible actions that the template lists."""
  return [a for a in admissible if a not in template.hidden_actions]


def render(
  template: Template,
  task: str,
  recent: Sequence[Turn],
  step: Step,
  taken: int,
) -> str:
  """Writes the user message of one turn.

  Args:
    template: the words.
    task: what `task_text` found in the first observation.
    recent: the past turns to show, the last ones of the episode, oldest first.
    step: the environment's last answer.
    taken: how many turns the episode has had.

  Returns: the message. Past turns carry their absolute step number, from 1.
  """
  lines = [
    template.history_line.format(
      step=taken - len(recent) + i + 1,
      observation=shown(template, turn.observation),
      action=turn.action,
    )
    for i, turn in enumerate(recent)
  ]
  actions = [
    template.admissible_line.format(action=action)
    for action in offered(template, step.admissible)
  ]
  return (template.later if recent else template.first).format(
    task=task,
    history=template.history_join.join(lines),
    taken=taken,
    shown=len(recent),
    step=taken + 1,
    observation=shown(template, step.observation),
    admissible=template.admissible_join.join(actions),
  )


def project(
  template: Template, reply: str, admissible: Sequence[str]
) -> Projected:
  """Turns a reply into an action, as the paper's runs do.

  Under 'tags' the reply is lower-cased and the action is the text between the
  first <action> and the first </action>. The reply is invalid when one of them
  is missing (its last characters are played then), when <think> or </think> is
  missing as written, or when it holds a CJK ideograph (U+4E00..U+9FFF).
  """
  if template.projection == 'bare':
    action, valid = reply.strip(), bool(reply.strip())
  else:
    lower = reply.lower()
    start, end = lower.find('<action>'), lower.find('</action>')
    tagged = start != -1 and end != -1
    action = (
      lower[start + len('<action>') : end].strip()
      if tagged
      else lower[-template.tail_chars :]
    )
    valid = (
      tagged
      and '<think>' in reply
      and '</think>' in reply
      and not re.search('[\u4e00-\u9fff]', reply)
    )
  if template.check_admissible:
    valid = valid and action in admissible
  return Projected(action, valid)


def make_template(
  name: str, presets: Mapping[str, Template], path: str = ''
) -> Template:
  """Returns the preset `name`, or the template in the JSON file at `path`."""
  if path:
    return load_template(path)
  if name not in presets:
    raise TemplateError(
      f'no template is called {name!r}; there are {sorted(presets)}, and '
      'env.template_file takes a JSON file.'
    )
  return presets[name]


def load_template(path: str) -> Template:
  """Reads a template from a JSON object with the fields of `Template`.

  Raises: TemplateError unless every message can be written with it.
  """
  try:
    fields: dict[str, Any] = json.loads(
      pathlib.Path(path).read_text(encoding='utf-8')
    )
    fields = {
      name: tuple(tuple(x) if isinstance(x, list) else x for x in value)
      if isinstance(value, list)
      else value
      for name, value in fields.items()
    }
    template = Template(**fields)
    _check_values(template)
    probe = Step('x', admissible=('a',))
    task_text(template, probe.observation)
    render(template, 'task', (), probe, taken=0)
    render(template, 'task', (Turn('x', 'a'),), probe, taken=1)
    template.reply.format(action='a')
  except (
    OSError, ValueError, TypeError, LookupError, AttributeError, re.error
  ) as error:  # fmt: skip
    known = [field.name for field in dataclasses.fields(Template)]
    raise TemplateError(
      f'{path}: not a template ({type(error).__name__}: {error}). Expected a '
      f'JSON object with fields of {known}; first and later are required.'
    ) from error
  return template


def _check_values(template: Template) -> None:
  """Raises TypeError or ValueError where a field does not hold what it says."""
  for field in dataclasses.fields(template):
    value = getattr(template, field.name)
    required = field.default is dataclasses.MISSING
    kind = str if required else type(field.default)
    if type(value) is not kind:
      raise TypeError(f'{field.name} is {value!r}, expected a {kind.__name__}')
  if not all(isinstance(action, str) for action in template.hidden_actions):
    raise TypeError(
      f'hidden_actions is {template.hidden_actions!r}, expected texts'
    )
  for pair in template.replace:
    if not isinstance(pair, tuple) or [type(x) for x in pair] != [str, str]:
      raise TypeError(
        f'replace has {pair!r}, expected pairs [pattern, replacement]'
      )
  if template.projection not in ('tags', 'bare'):
    raise ValueError(
      f"projection is {template.projection!r}, expected 'tags' or 'bare'"
    )
  if template.tail_chars < 1:
    raise ValueError(f'tail_chars is {template.tail_chars}, expected 1 or more')
  if re.compile(template.task_pattern).groups < 1:
    raise ValueError(
      f'task_pattern is {template.task_pattern!r}, expected a group (...)'
    )


@dataclasses.dataclass(frozen=True)
class AgentLayer:
  """A template and a history depth: what a rollout needs of the words.

  Attributes:
    template: the words.
    depth: K, past turns in a message.
    constrained: whether replies are limited to the offered actions.
  """

  template: Template
  depth: int
  constrained: bool

  def task(self, first_observation: str) -> str:
    """See `task_text`."""
    return task_text(self.template, first_observation)

  def message(
    self, task: str, history: Sequence[tuple[str, str]], step: Step
  ) -> str:
    """The user message of a turn after a whole history; see `render`."""
    taken = len(history)
    recent = [Turn(*pair) for pair in history[max(0, taken - self.depth) :]]
    return render(self.template, task, recent, step, taken)

  def written(self, action: str) -> str:
    """The reply that plays `action`."""
    return self.template.reply.format(action=action)

  def replies(self, step: Step) -> list[str]:
    """The replies that decoding is limited to; none leaves it free."""
    if not self.constrained:
      return []
    return [self.written(a) for a in offered(self.template, step.admissible)]

  def project(self, reply: str, step: Step) -> Projected:
    """See the function `project`."""
    return project(self.template, reply, step.admissible)
