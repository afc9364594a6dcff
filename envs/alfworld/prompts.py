"""ALFWorld's templates: `paper` (reason and action tags) and `compact`."""

from __future__ import annotations

from envs.agent import Template

_TASK = r'Your task is to: (.*)'
_ASK = (
  'Think first: reason step by step about where you stand and what is still '
  'to be done, inside <think> </think>. Then choose one admissible action and '
  'write it inside <action> </action>.'
)

PAPER = Template(
  first=(
    'You act in the ALFRED household, a world of text. Your task is to: '
    '{task}\n'
    'This is step {step}. Now you observe: {observation}\n'
    'Admissible actions now: [{admissible}].\n\n' + _ASK
  ),
  later=(
    'You act in the ALFRED household, a world of text. Your task is to: '
    '{task}\n'
    'So far you have taken {taken} step(s). The last {shown} observations and '
    'the actions that you took: {history}\n'
    'This is step {step}. Now you observe: {observation}\n'
    'Admissible actions now: [{admissible}].\n\n' + _ASK
  ),
  history_line=(
    "[Observation {step}: '{observation}', Action {step}: '{action}']"
  ),
  hidden_actions=('help',),
  task_pattern=_TASK,
  reply='<think>This is the next step.</think><action>{action}</action>',
  projection='tags',
)

# Few tokens: no list of actions (decoding is constrained to them instead), no
# articles, the greeting and the task cut from the first observation, and
# actions that only look back are not offered.
COMPACT = Template(
  first='{task}\n{observation}',
  later='{task}\n{history}\n{observation}',
  history_line='{observation}\n{action}',
  hidden_actions=('help', 'inventory', 'look'),
  replace=(
    (r'(?s)^-= Welcome to TextWorld, ALFRED! =-\s*', ''),
    (r'(?s)\s*Your task is to: .*', ''),
    (r'You are in the middle of a room\. Looking quickly around you, y', 'Y'),
    (r'you see a ', 'you see '),
    (r',(?: and)? a ', ' '),
  ),
  task_pattern=_TASK,
  projection='bare',
  check_admissible=True,
)

TEMPLATES = {'paper': PAPER, 'compact': COMPACT}
