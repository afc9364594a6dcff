"""The guessing world: its contract, its odds, and that it can be learned."""

import random

import numpy as np
import pytest

from envs import checker, toy
from envs.base import ResetNeeded, Step, Task, UnknownTask
from envs.toy import GuessEnv, GuessWorld


def all_tasks(env):
  return [
    Task(split, i) for split in toy.SPLITS for i in range(env.num_tasks(split))
  ]


def play(env, task, choose):
  """Returns the steps of an episode; `choose` sees each step."""
  steps = [env.reset(task)]
  while not steps[-1].done:
    steps.append(env.step(choose(steps[-1])))
  return steps


def read_hint(step):
  return step.observation.rstrip('.').split()[-1]


@pytest.mark.parametrize('num_words', [2, 4, 8])
def test_contract(num_words):
  env = GuessEnv(num_words)
  tasks = all_tasks(env)
  report = checker.check_env(lambda: GuessEnv(num_words), tasks)
  assert report.episodes == report.ended == len(tasks) == num_words**2
  assert report.steps == 2 * report.episodes


@pytest.mark.parametrize('num_words', [2, 4, 8])
def test_who_reads_the_hints_wins_every_task(num_words):
  env = GuessEnv(num_words)
  for task in all_tasks(env):
    steps = play(env, task, read_hint)
    assert [s.reward for s in steps] == [0, 0, 1]
    assert steps[-1].won
    assert steps[-1].terminated


def test_a_wrong_first_answer_leads_on_but_cannot_win():
  env = GuessEnv()
  first = env.reset(Task('train', 0))
  wrong = next(w for w in first.admissible if w != read_hint(first))
  second = env.step(wrong)
  assert second.observation.startswith('Wrong. Say ')
  assert not second.done
  last = env.step(read_hint(second))
  assert last == Step('Wrong.', reward=0.0, terminated=True)
  with pytest.raises(ResetNeeded, match='reset'):
    env.step('red')


def test_random_guessing_wins_one_in_sixteen():
  env, rng = GuessEnv(), random.Random(0)
  tasks = all_tasks(env)
  wins = sum(
    play(env, rng.choice(tasks), lambda s: rng.choice(s.admissible))[-1].won
    for _ in range(8000)
  )
  assert wins / 8000 == pytest.approx(1 / 16, abs=0.01)


def test_valid_has_other_pairs_of_the_same_words():
  env = GuessEnv()

  def hints(split):
    tasks = [Task(split, i) for i in range(env.num_tasks(split))]
    return {tuple(map(read_hint, play(env, t, read_hint)[:2])) for t in tasks}

  train, valid = hints('train'), hints('valid')
  assert (len(train), len(valid)) == (12, 4)
  assert not train & valid
  for turn in range(2):
    assert {p[turn] for p in valid} == {p[turn] for p in train}


def test_errors_say_what_was_expected():
  with pytest.raises(UnknownTask, match='train.*has no task 12.*0 to 11'):
    GuessEnv().reset(Task('train', 12))
  with pytest.raises(UnknownTask, match=r"'test'.*\('train', 'valid'\)"):
    GuessEnv().reset(Task('test', 0))
  with pytest.raises(ValueError, match='num_words=9: expected 2 to 8'):
    GuessEnv(9)


def test_the_expert_wins_and_noise_can_fail():
  world = GuessWorld()
  tasks = [Task('train', i) for i in range(world.num_tasks('train'))]

  def turns(noise):
    return [
      world.demonstrate(t, seed=0, explore=0.0, noise=noise) for t in tasks
    ]

  quiet = [x for t in turns(0.0) for x in t]
  assert len(quiet) == 2 * len(tasks)
  assert all(x.action == x.advice == read_hint(x.step) for x in quiet)
  assert turns(0.7) == turns(0.7)
  assert [] in turns(0.7)


def test_plain_policy_gradient_learns_it():
  """A linear policy over the words shown; no model, no baseline."""
  env, rng = GuessEnv(), np.random.default_rng(0)
  words = sorted(toy.WORDS[:4])
  vocab = {w: i for i, w in enumerate([*words, 'Say', 'Right', 'Wrong'])}
  weights = np.zeros((len(vocab), len(words)))

  def features(step):
    shown = step.observation.replace('.', ' ').split()
    return np.bincount([vocab[w] for w in shown], minlength=len(vocab))

  def episode(split, rate):
    grads = []

    def choose(step):
      x = features(step)
      p = np.exp(x @ weights)
      p /= p.sum()
      action = rng.choice(len(words), p=p)
      grads.append(np.outer(x, np.eye(len(words))[action] - p))
      return words[action]

    task = Task(split, int(rng.integers(env.num_tasks(split))))
    last = play(env, task, choose)[-1]
    weights[:] += rate * last.reward * sum(grads)
    return last.won

  for _ in range(3000):
    episode('train', 0.3)
  assert np.mean([episode('valid', 0.0) for _ in range(200)]) > 0.9


class Broken(GuessEnv):
  """A world with one defect, to be found by the checker."""

  def __init__(self, defect):
    super().__init__()
    self.defect, self.count = defect, 0

  def reset(self, task):
    if self.defect == 'any task' and task.split == 'no such split':
      task = Task('train', 0)
    pair = self._pair
    try:
      step = super().reset(task)
    except UnknownTask:
      self._pair = pair if self.defect == 'forgets to end' else None
      raise
    self.count += self.defect == 'memory'
    admissible = {
      'unsorted': ('red', 'blue'), 'double': ('blue', 'blue'), 'list': ['red'],
    }.get(self.defect, step.admissible)  # fmt: skip
    return Step(
      f'{step.observation}{self.count or ""}',
      admissible,
      reward=0 if self.defect == 'int reward' else 0.0,
      won=self.defect == 'won early',
      truncated=0 if self.defect == 'int flag' else False,
    )

  def step(self, action):
    if self.defect == 'plays on' and self._pair is None:
      return Step('Still here.')
    if self.defect == 'raises' and self._pair and action not in toy.WORDS:
      raise KeyError(action)
    return super().step(action)


@pytest.mark.parametrize(
  ('defect', 'message'),
  [
    ('any task', 'expected UnknownTask'),
    ('forgets to end', 'expected ResetNeeded'),
    ('memory', 'deterministic'),
    ('unsorted', 'sorted'),
    ('double', 'sorted'),
    ('list', 'tuple of texts'),
    ('int reward', 'expected a float'),
    ('int flag', 'expected a bool'),
    ('won early', 'won without terminated'),
    ('plays on', 'expected ResetNeeded'),
    ('raises', 'expected a Step'),
  ],
)
def test_the_checker_finds(defect, message):
  tasks = [Task('train', i) for i in range(12)]
  with pytest.raises(checker.ContractError, match=message):
    checker.check_env(lambda: Broken(defect), tasks)
