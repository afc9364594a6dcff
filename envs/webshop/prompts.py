"""WebShop's templates: `paper` (reason and action tags) and `compact`."""

from __future__ import annotations

from envs.agent import Template

_TASK = r'(?s)Instruction: \[SEP\] (.*?) \[SEP\] '
# Every page repeats the instruction, which the message has once already.
_INSTRUCTION = (
  r'(?s)^(WebShop \[SEP\] )?Instruction: \[SEP\] .*? \[SEP\] ',
  '',
)
_ASK = (
  'Think first: reason step by step about what this page tells you and what '
  'the task still needs, inside <think> </think>. Then choose one of the '
  'available actions and write it inside <action> </action>.'
)
_HEAD = 'You shop on a web site, a world of text pages. Your task is: {task}\n'
_NOW = (
  'This is step {step}. Now you see: {observation}\n'
  'Available actions now: [\n{admissible}\n].\n\n' + _ASK
)

PAPER = Template(
  first=_HEAD + _NOW,
  later=(
    _HEAD + 'So far you have taken {taken} step(s). The last {shown} pages and '
    'the actions that you took: {history}\n' + _NOW
  ),
  history_line=(
    "[Observation {step}: '{observation}', Action {step}: '{action}']"
  ),
  admissible_line="'{action}',",
  admissible_join='\n',
  replace=(_INSTRUCTION,),
  task_pattern=_TASK,
  reply='<think>This is the next step.</think><action>{action}</action>',
  projection='tags',
  tail_chars=20,
)

# Few tokens: the page without the instruction, no list of actions.
COMPACT = Template(
  first='{task}\n{observation}',
  later='{task}\n{history}\n{observation}',
  history_line='{observation}\n{action}',
  replace=(_INSTRUCTION, (r' \[SEP\] ', ' | ')),
  task_pattern=_TASK,
  projection='bare',
)

TEMPLATES = {'paper': PAPER, 'compact': COMPACT}
