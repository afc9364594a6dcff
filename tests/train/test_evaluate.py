"""What is told of episodes."""

import numpy as np

from hgpo_jax import types
from hgpo_jax.train import evaluate

SAID = {
  1: 'go to desk 1',
  2: '<think>a mug?</think><action>take mug 1</action>',
  3: 'hm',
}


def turn(reply, observation, action, valid=True):
  none = np.zeros(0)
  tokens = np.array([reply], np.int32)
  return types.Turn(none, tokens, none, (), observation, action, valid, 0.0)


def test_transcripts_show_what_a_reply_says_beside_its_action():
  turns = (
    turn(1, 'a room', 'go to desk 1'),
    turn(2, 'a desk', 'take mug 1'),
    turn(3, 'a mug', 'hm', valid=False),
  )
  trajectory = types.Trajectory('t7', turns, won=False, truncated=True)
  text = evaluate.transcript(trajectory, lambda tokens: SAID[tokens[0]])
  assert text.splitlines() == [
    'task t7',
    '--- turn 1',
    'a room',
    '> go to desk 1',
    '--- turn 2',
    'a desk',
    '< <think>a mug?</think><action>take mug 1</action>',
    '> take mug 1',
    '--- turn 3',
    'a mug',
    '> hm   (invalid)',
    '=== step limit',
  ]
