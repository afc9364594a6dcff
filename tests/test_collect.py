"""Rollouts with a scripted policy: what is recorded is what happened."""

from types import SimpleNamespace

import jax
import numpy as np

from envs import agent, client
from envs.base import Task
from envs.toy import GuessWorld
from hgpo_jax.rollout import collect


class Letters:
  """A codec of one token per character, 0 at the end."""

  def prompts(self, messages):
    return [[ord(c) for c in m] for m in messages]

  def choices(self, texts):
    return tuple((*(ord(c) for c in t), 0) for t in texts)

  def text(self, tokens):
    return ''.join(chr(t) for t in tokens if t)


def follow_hint(prompts, keys, choices):
  """Answers the word that the last hint asks for, but errs in every 3rd row."""
  del choices
  words = []
  for row, prompt in enumerate(prompts):
    hint = ''.join(map(chr, prompt)).rstrip('.').split()[-1]
    words.append('nonsense' if keys[row][0] % 3 == 0 else hint)
  tokens = np.zeros((len(words), 12), np.int32)
  for row, word in enumerate(words):
    tokens[row, : len(word)] = [ord(c) for c in word]
  lengths = np.array([len(word) + 1 for word in words])
  return SimpleNamespace(
    tokens=tokens, log_probs=-np.ones(tokens.shape, np.float32), lengths=lengths
  )


def play(tasks, generate=follow_hint, constrained=True):
  world = GuessWorld(num_words=4)
  layer = agent.AgentLayer(world.templates['compact'], 2, constrained)
  envs = client.InlineClient(world.make_env)
  key = jax.random.key(0)
  return collect.collect(envs, layer, Letters(), generate, tasks, key)


def test_trajectories_record_prompt_reply_state_and_reward():
  tasks = [Task('train', i) for i in (0, 0, 1, 2, 3)]
  trajectories = play(tasks)
  assert [t.task for t in trajectories] == tasks
  assert {t.won for t in trajectories} == {True, False}
  for trajectory in trajectories:
    assert len(trajectory.turns) == 2
    assert trajectory.turns[0].observation.startswith('Say ')
    last = trajectory.turns[-1]
    assert [last.reward, trajectory.turns[0].reward] == [trajectory.won, 0]
    assert chr(last.reply[0]) == last.action[0] and last.reply[-1] == 0
    assert last.reply.shape == last.log_probs.shape
    assert len(last.choices) == 4
    # The second prompt holds the first turn, the template's words around it.
    text = ''.join(map(chr, last.prompt))
    assert text.startswith(trajectory.turns[0].observation)


def test_an_episode_does_not_depend_on_what_stands_behind_it():
  tasks = [Task('train', i) for i in range(6)]
  whole, half = play(tasks), play(tasks[:3])
  for a, b in zip(whole, half, strict=False):
    assert [t.action for t in a.turns] == [t.action for t in b.turns]


def test_turn_keys_are_all_different():
  key = jax.random.key(1)
  keys = [
    tuple(row)
    for turn in range(20)
    for row in np.asarray(
      collect.turn_keys(key, np.arange(64, dtype=np.int32), np.int32(turn))
    )
  ]
  assert len(set(keys)) == len(keys)


def test_unconstrained_rows_carry_no_choices():
  (trajectory,) = play([Task('train', 0)], constrained=False)
  assert trajectory.turns[0].choices == ()
