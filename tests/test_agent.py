"""The agent layer: templates, history, projection."""

import json

import pytest

from envs import agent
from envs.agent import Template, Turn, project, render
from envs.alfworld.prompts import COMPACT, PAPER
from envs.base import Step

STEP = Step('You see a mug 1.', admissible=('go to desk 1', 'help', 'look'))


def test_first_turn_and_depth_zero_show_no_history():
  history = [Turn('o1', 'a1')]
  first = render(PAPER, 'find it', [], STEP, 2)
  assert 'last' not in first
  shown = render(PAPER, 'find it', history, STEP, 0)
  assert 'o1' not in shown and shown == first


def test_history_is_numbered_by_absolute_step():
  history = [Turn(f'o{i}', f'a{i}') for i in range(1, 6)]
  text = render(PAPER, 'find it', history, STEP, 2)
  assert "[Observation 4: 'o4', Action 4: 'a4']" in text
  assert "[Observation 5: 'o5', Action 5: 'a5']" in text
  assert 'o3' not in text
  assert 'taken 5 step(s)' in text and 'This is step 6.' in text


def test_admissible_actions_are_quoted_without_help():
  text = render(PAPER, 'find it', [], STEP, 2)
  assert "'go to desk 1'" in text and "'look'" in text
  assert 'help' not in text


def test_braces_in_an_observation_are_text():
  text = render(PAPER, '{task}', [], Step('{observation} {0}'), 2)
  assert '{observation} {0}' in text


@pytest.mark.parametrize(
  'reply, action, valid',
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
  text = render(COMPACT, task, [], Step(first), 2)
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
  text = render(template, 'go', [], STEP, 2)
  assert text == 'T go O There is a mug 1.'


@pytest.mark.parametrize(
  'content',
  ['{', '{"first": "x"}', '{"first": "{nope}", "later": "x"}',
   '{"first": "x", "later": "y", "colour": 1}',
   '{"first": "x", "later": "y", "projection": "magic"}'],
)  # fmt: skip
def test_a_broken_template_file_says_what_is_expected(tmp_path, content):
  path = tmp_path / 'words.json'
  path.write_text(content)
  with pytest.raises(agent.TemplateError, match='words.json'):
    agent.load_template(str(path))


def test_an_unknown_preset_names_those_there_are():
  with pytest.raises(agent.TemplateError, match='paper'):
    agent.make_template('papr', {'paper': PAPER})


def test_constrained_replies_leave_out_hidden_actions():
  layer = agent.AgentLayer(COMPACT, depth=2, constrained=True)
  assert layer.replies(STEP) == ['go to desk 1']
  free = agent.AgentLayer(Template('', ''), depth=2, constrained=False)
  assert free.replies(STEP) == []
