"""The agent layer: templates, history, projection."""

import json

import pytest

from envs import agent
from envs.agent import Template, project, render
from envs.alfworld.prompts import COMPACT, PAPER
from envs.base import Step

STEP = Step('You see a mug 1.', admissible=('go to desk 1', 'help', 'look'))


def message(template, history, depth):
  layer = agent.AgentLayer(template, depth, constrained=False)
  return layer.message('find it', history, STEP)


@pytest.mark.parametrize(('taken', 'depth'), [(0, 2), (0, 0), (1, 0), (7, 0)])
def test_first_turn_and_depth_zero_show_no_history(taken, depth):
  text = message(PAPER, [('o1', 'a1')] * taken, depth)
  assert 'last' not in text
  assert 'o1' not in text
  assert 'Your task is to: find it\n' in text
  assert f'This is step {taken + 1}.' in text


def test_history_is_numbered_by_absolute_step():
  history = [(f'o{i}', f'a{i}') for i in range(1, 6)]
  text = message(PAPER, history, 2)
  assert "[Observation 4: 'o4', Action 4: 'a4']" in text
  assert "[Observation 5: 'o5', Action 5: 'a5']" in text
  assert 'o3' not in text
  assert 'taken 5 step(s)' in text
  assert 'This is step 6.' in text


def test_a_short_history_is_shown_whole():
  text = message(COMPACT, [('o1', 'a1'), ('o2', 'a2')], 4)
  assert text == 'find it\no1\na1\no2\na2\nYou see a mug 1.'


def test_admissible_actions_are_quoted_without_help():
  text = message(PAPER, [], 2)
  assert "'go to desk 1'" in text
  assert "'look'" in text
  assert 'help' not in text


def test_braces_in_an_observation_are_text():
  text = render(PAPER, '{task}', [], Step('{observation} {0}'), 0)
  assert '{observation} {0}' in text


@pytest.mark.parametrize(
  ('reply', 'action', 'valid'),
  [
    ('<think>x</think><action>Go To Desk 1</action>', 'go to desk 1', True),
    (
      '<think>x</think><action> look </action> <action>b</action>',
      'look',
      True,
    ),
    ('<action>look</action>', 'look', False),
    ('<THINK>x</THINK><action>look</action>', 'look', False),
    ('<think>x</think><ACTION>look</ACTION>', 'look', True),
    ('<think>\u4e2d</think><action>look</action>', 'look', False),
    ('<think>x</think>' + 'y' * 40, 'y' * 30, False),
    ('<think>x</think>' + 'y' * 40 + ' \n', 'y' * 28 + ' \n', False),
    ('<think>x</think><action>  ', '<think>x</think><action>  ', False),
    ('', '', False),
  ],
)
def test_projection_under_tags(reply, action, valid):
  assert project(PAPER, reply, STEP.admissible) == (action, valid)


def test_the_paper_preset_does_not_check_admissibility():
  reply = '<think>x</think><action>fly</action>'
  assert project(PAPER, reply, STEP.admissible).valid
  assert not project(COMPACT, 'fly', STEP.admissible).valid
  assert project(COMPACT, ' look', STEP.admissible) == ('look', True)


def test_compact_cuts_greeting_and_task_from_the_observation():
  first = (
    '-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. '
    'Looking quickly around you, you see a bed 1.\n\n'
    'Your task is to: put some mug on desk.'
  )
  task = agent.task_text(COMPACT, first)
  assert task == 'put some mug on desk.'
  text = render(COMPACT, task, [], Step(first), 0)
  assert text == 'put some mug on desk.\nYou see a bed 1.'


def test_a_template_file_replaces_a_preset(tmp_path):
  path = tmp_path / 'words.json'
  path.write_text(
    json.dumps(
      {
        'first': 'T {task} O {observation}',
        'later': '{history} O {observation}',
        'hidden_actions': ['help'],
        'replace': [['You see', 'There is']],
      }
    )
  )
  template = agent.make_template('paper', {'paper': PAPER}, str(path))
  text = render(template, 'go', [], STEP, 0)
  assert text == 'T go O There is a mug 1.'


@pytest.mark.parametrize('content', [
  '{', '[]', '{"first": "x"}', '{"first": "x", "later": "y", "colour": 1}',
  '{"first": "{nope}", "later": "y"}', '{"first": "{}", "later": "y"}',
])  # fmt: skip
def test_a_broken_template_file_says_what_is_expected(tmp_path, content):
  path = tmp_path / 'words.json'
  path.write_text(content)
  with pytest.raises(agent.TemplateError, match='words.json.*Expected'):
    agent.load_template(str(path))


@pytest.mark.parametrize(('field', 'value'), [
  ('later', 1), ('history_line', None), ('history_line', '{0}'),
  ('reply', '{observation}'), ('projection', 'magic'), ('tail_chars', 0),
  ('tail_chars', -5), ('tail_chars', True), ('tail_chars', 2.5),
  ('check_admissible', 1), ('hidden_actions', 'help'), ('hidden_actions', [1]),
  ('task_pattern', 'no group'), ('task_pattern', '(?:none)'),
  ('task_pattern', '(open'), ('replace', ['ab']), ('replace', [['a']]),
  ('replace', [['a', 1]]), ('replace', [['(', '']]),
  ('replace', [['a', '\\1']]),
])  # fmt: skip
def test_a_wrong_field_is_refused_by_file(tmp_path, field, value):
  path = tmp_path / 'words.json'
  path.write_text(json.dumps({'first': 'x', 'later': 'y', field: value}))
  with pytest.raises(agent.TemplateError, match='words.json'):
    agent.load_template(str(path))


def test_a_task_that_is_not_found_is_the_whole_text():
  for pattern in ('Task: (.*)', '(x)|Say'):
    template = Template('', '', task_pattern=pattern)
    assert agent.task_text(template, ' Say red. ') == 'Say red.'


def test_an_unknown_preset_names_those_there_are():
  with pytest.raises(agent.TemplateError, match='paper'):
    agent.make_template('papr', {'paper': PAPER})


def test_constrained_replies_leave_out_hidden_actions():
  layer = agent.AgentLayer(COMPACT, depth=2, constrained=True)
  assert layer.replies(STEP) == ['go to desk 1']
  free = agent.AgentLayer(Template('', ''), depth=2, constrained=False)
  assert free.replies(STEP) == []
