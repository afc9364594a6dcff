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

# Few tokens: no list of actions (decoding is constrained to them instead), a
# line for each thing that pages say, the instruction once, as part of the page,
# and no buttons. Bounds are tens, so that the tens of a price say enough. Past
# pages are not shown; of them only the actions.
COMPACT = Template(
  first='{observation}',
  later='{history}\n{observation}',
  history_line='{action}',
  hidden_actions=(
    'search[<your query>]',
    'click[description]',
    'click[features]',
    'click[reviews]',
  ),
  replace=(
    (r'^(WebShop \[SEP\] )?Instruction: \[SEP\] (Find me )?', ''),
    (
      r' \[SEP\] (Rating: N\.A\.|Description|Features|Reviews|Back to Search'
      r'|< Prev|Next >|Search|Buy Now)(?= \[SEP\]|$)',
      '',
    ),
    (r', and price lower than (\d+)\.\d+ dollars', r' [SEP] below \1'),
    (r'(Price: )?\$(\d*)\d\.\d+', r'costs \g<2>0'),
    (r'Page (\d+) \(Total results: \d+\)', r'page \1'),
    # An id and a title are one line, in which the id is as in its action.
    (r' \[SEP\] ITEM (\d+) \[SEP\] ', r'\nitem \1 '),
    (r' \[SEP\] |, and | with |, ', '\n'),
  ),
  task_pattern=_TASK,
  projection='bare',
  check_admissible=True,
)

TEMPLATES = {'paper': PAPER, 'compact': COMPACT}
