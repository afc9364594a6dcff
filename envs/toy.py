"""A two-turn guessing world, on which learning can be proved in seconds.

Turn 0 names a word and turn 1, after a verdict on the first answer, names
another; the agent has to say each of them back:

    Say red.            -> red
    Right. Say gold.    -> gold       (won, reward 1)

A wrong first answer leads on to `Wrong. Say gold.`, where nothing can be won
any more. So the reward comes at the end alone, an answer in a lost state gets
no credit and no blame, and a step-level estimator has something to see.
Guessing at random wins once in `num_words` squared episodes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from envs.agent import Template
from envs.base import ResetNeeded, Step, Task, UnknownTask, pick
from envs.world import Demonstrated

WORDS = ('red', 'green', 'blue', 'gold', 'pink', 'grey', 'white', 'black')
SPLITS = ('train', 'valid')


class GuessEnv:
  """Task i of a split names the i-th of its pairs of words.

  `valid` holds the pairs that `train` never shows; it has the same words in
  both turns, so that a policy which learned to read a hint wins there too.
  """

  def __init__(self, num_words: int = 4):
    """Args: num_words: 2 to 8; random guessing wins with 1 / num_words^2."""
    if not 2 <= num_words <= len(WORDS):
      raise ValueError(
        f'num_words={num_words}: expected 2 to {len(WORDS)} for GuessEnv.'
      )
    self._words = WORDS[:num_words]
    self._pair: tuple[str, str] | None = None  # None: no episode is running
    self._turn = 0
    self._right = True

  def num_tasks(self, split: str) -> int:
    """How many tasks `split` has: n for valid, n^2 - n for train."""
    return len(self._pairs(split))

  def reset(self, task: Task) -> Step:
    """Starts the episode of `task`; raises UnknownTask if there is none."""
    self._pair = None  # an unknown task ends the old episode too
    self._pair = pick(self._pairs(task.split), task)
    self._turn, self._right = 0, True
    return Step(f'Say {self._pair[0]}.', self._admissible)

  def step(self, action: str) -> Step:
    """Plays one action; raises ResetNeeded where no episode runs."""
    if self._pair is None:
      raise ResetNeeded('no episode is running: call reset(task) first.')
    self._right &= action.strip() == self._pair[self._turn]
    verdict = 'Right.' if self._right else 'Wrong.'
    self._turn += 1
    if self._turn < len(self._pair):
      hint = self._pair[self._turn]
      return Step(f'{verdict} Say {hint}.', self._admissible)
    self._pair = None
    return Step(
      verdict, reward=float(self._right), terminated=True, won=self._right
    )

  @property
  def _admissible(self) -> tuple[str, ...]:
    return tuple(sorted(self._words))

  def _pairs(self, split: str) -> list[tuple[str, str]]:
    if split not in SPLITS:
      raise UnknownTask(f'no split {split!r}: expected one of {SPLITS}.')
    words, n = self._words, len(self._words)
    # Every word is the first one, and the second one, of one pair of `valid`.
    return [
      (words[i], words[j])
      for i in range(n)
      for j in range(n)
      if ((i + j) % n == 0) == (split == 'valid')
    ]


class GuessWorld:
  """`GuessEnv` as a whole world: the words of the agent layer, an expert."""

  templates: Mapping[str, Template] = {
    'compact': Template(
      first='{observation}',
      later='{history}\n{observation}',
      history_line='{observation} {action}',
    )
  }

  def __init__(self, num_words: int = 4):
    """Takes the size of the world.

    Args:
      num_words: words that may be the right one.
    """
    self._num_words = num_words
    self.make_env()  # refuses a wrong size now

  def make_env(self) -> GuessEnv:
    """Returns a fresh environment."""
    return GuessEnv(self._num_words)

  def num_tasks(self, split: str) -> int:
    """Returns the size of a split; raises UnknownTask without it."""
    return self.make_env().num_tasks(split)

  def kind(self, task: Task) -> str:
    """Returns the one kind of task that there is."""
    return 'guess'

  def demonstrate(
    self, task: Task, *, seed: int, explore: float, noise: float
  ) -> list[Demonstrated]:
    """Says what the hints say; there is nothing to explore."""
    rng = random.Random(f'{seed} {task}')
    env = self.make_env()
    step, turns = env.reset(task), []
    while not step.done:
      action = hint = step.observation.removesuffix('.').split()[-1]
      if rng.random() < noise:
        action = rng.choice(step.admissible)
      turns.append(Demonstrated(step, action, hint))
      step = env.step(action)
    return turns if step.won else []
