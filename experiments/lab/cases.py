"""One case: a step of one game, its truth, and groups that estimate it.

Every random stream is named by seed, cell, case and purpose. So a case is the
same in every process and at any time, and the truth shares no stream with what
an estimator sees.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import operator
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from envs.agent import task_text
from envs.alfworld.engine import Engine
from envs.alfworld.generate import SPECS, generate_game
from envs.alfworld.prompts import COMPACT
from experiments.lab import truth
from experiments.lab.play import Episode, Moment, Rules, moment_after, play
from experiments.lab.policy import Policy, scripted
from hgpo_jax.types import ordered_sum


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a cell's cases depend on, beside the player's skill and depth.

  Attributes:
    seed: of everything.
    steps: cases per cell; each is a step of a game of its own.
    continuations: of Q(h, a), and as many of the other moves.
    replicates: independent groups per case.
    episodes: of the largest group.
    members: rows of the same state whose true value is compared with h's.
    max_turns: horizon of an episode.
    gamma: discount per turn.
    reward: of a success.
    family: of generated games, a name in `envs.alfworld.generate.SPECS`.
    distractors: (least, most) objects that the task does not ask for.
  """

  seed: int
  steps: int
  continuations: int
  replicates: int
  episodes: int
  members: int
  max_turns: int
  gamma: float
  reward: float
  family: str
  distractors: tuple[int, int]

  def rules(self, depth: int) -> Rules:
    """Of players with a window of K = depth turns."""
    return Rules(
      depth=depth,
      max_turns=self.max_turns,
      gamma=self.gamma,
      reward=self.reward,
      hidden=frozenset(COMPACT.hidden_actions),
    )


@dataclasses.dataclass(frozen=True)
class Case:
  """A case to be computed: the `index`-th of the cell (skill, depth)."""

  settings: Settings
  skill: float
  depth: int
  index: int

  def rng(self, purpose: str) -> random.Random:
    """The random stream of one purpose."""
    s = self.settings
    cell = f'{s.seed} {self.skill} {self.depth} {self.index}'
    return random.Random(f'lab {cell} {purpose}')


def first_moment(settings: Settings, index: int) -> Moment:
  """The start of the case's game; the same game in every cell."""
  spec = dataclasses.replace(
    SPECS[settings.family], num_distractors=settings.distractors
  )
  engine = Engine(generate_game(spec, 'train', index, settings.seed))
  step = engine.reset()
  return Moment(engine, task_text(COMPACT, step.observation), (), step, 0)


def compute(case: Case) -> dict[str, Any]:
  """Computes one ALFWorld case; see `study`."""
  start = first_moment(case.settings, case.index)
  policy = functools.partial(scripted, skill=case.skill)
  return study(case, start, case.settings.rules(case.depth), policy)


def study(
  case: Case, start: Moment, rules: Rules, policy: Policy
) -> dict[str, Any]:
  """Picks a step of an episode, finds its truth, and plays its groups.

  Args:
    case: the case.
    start: the beginning of its game.
    rules: of its episodes.
    policy: the player's.

  Returns: a record of numbers and arrays, R replicates of G episodes of at most
    T turns; the same fields and shapes for every case:

    turn, action, turns, won: the step, and its episode.
    weight: inverse of the chance with which the step was picked.
    probability: pi(a | h).
    taken, other, value, advantage: true means; `<name>_error`s beside them.
    member_value, member_error, member_depth: `[M]`, rows of other histories
      with the same observation: V(h'), its error, and how many earlier
      observations they share; -1 where there is no such row.
    obs, act: `[R, G, T]` ids, -1 after the end; length, success: `[R, G]`.
      Episode 0 has the step's own prefix and a, then continues on its own.
  """
  settings = case.settings
  episode = play(start, rules, policy, case.rng('base'))
  moments = _moments(start, rules, episode.actions)
  turn, weight = pick_step(moments, episode, rules, policy, case.rng('pick'))
  prefix = episode.actions[: turn + 1]
  true = truth.step_truth(
    moments[turn],
    prefix[-1],
    rules,
    policy,
    case.rng('truth'),
    settings.continuations,
  )
  rng = case.rng('groups')
  groups = [
    [play(start, rules, policy, rng, prefix)]
    + [play(start, rules, policy, rng) for _ in range(settings.episodes - 1)]
    for _ in range(settings.replicates)
  ]
  record: dict[str, Any] = {
    'turn': turn,
    'action': prefix[-1],
    'turns': len(episode.actions),
    'won': episode.won,
    'weight': weight,
    'probability': true.probability,
  }
  for name in ('taken', 'other', 'value', 'advantage'):
    record[name], record[f'{name}_error'] = getattr(true, name)
  record |= _members(case, start, rules, policy, groups[0], turn)
  return record | encode(groups, rules.max_turns)


def _moments(
  start: Moment, rules: Rules, actions: Sequence[str]
) -> list[Moment]:
  """The moments before each turn of an episode."""
  moments = [start]
  for action in actions[:-1]:
    moments.append(moment_after(moments[-1], rules, [action]))
  return moments


def pick_step(
  moments: Sequence[Moment],
  episode: Episode,
  rules: Rules,
  policy: Policy,
  rng: random.Random,
) -> tuple[int, float]:
  """Draws a turn t of an episode with a chance that favours unlikely moves.

  An advantage is 1 - pi(a) times a difference of values, so nearly all turns of
  a good player have one of nearly 0. Drawing with a chance proportional to
  sqrt(1 - pi(a_t)) is between what would serve means of advantages best and
  what would serve the noise of estimates, which all turns have. Weighted by the
  inverse of that chance, means over cases are means over the rows of a batch.

  Returns: t and its weight.
  """
  chances = [
    math.sqrt(max(1e-6, 1 - policy(moment.view(rules)).probability(action)))
    for moment, action in zip(moments, episode.actions, strict=True)
  ]
  turn = rng.choices(range(len(chances)), chances)[0]
  return turn, ordered_sum(chances) / chances[turn]


def _members(
  case: Case,
  start: Moment,
  rules: Rules,
  policy: Policy,
  group: Sequence[Episode],
  turn: int,
) -> Mapping[str, np.ndarray]:
  """True values of some rows with the observation of the picked step."""
  own = group[0].observations
  rows = [
    (number, t)
    for number, episode in enumerate(group)
    for t, observation in enumerate(episode.observations)
    if observation == own[turn] and (number, t) != (0, turn)
  ]
  rng, size = case.rng('members'), case.settings.members
  value, error = np.zeros(size), np.zeros(size)
  depth = np.full(size, -1)
  for m, (number, t) in enumerate(rng.sample(rows, min(size, len(rows)))):
    episode = group[number]
    moment = moment_after(start, rules, episode.actions[:t])
    value[m], error[m] = truth.value_of(
      moment, rules, policy, rng, max(2, case.settings.continuations // 4)
    )
    depth[m] = _shared(own[: turn + 1], episode.observations[: t + 1])
  return {'member_value': value, 'member_error': error, 'member_depth': depth}


def _shared(one: Sequence[str], two: Sequence[str]) -> int:
  """How many observations before the last are equal, counted backwards."""
  equal = map(operator.eq, reversed(one[:-1]), reversed(two[:-1]))
  return sum(itertools.takewhile(bool, equal))


def encode(
  groups: Sequence[Sequence[Episode]], turns: int
) -> dict[str, np.ndarray]:
  """Episodes as ids, numbered within each group."""
  shape = len(groups), len(groups[0]), turns
  obs, act = (np.full(shape, -1, np.int16) for _ in range(2))
  for r, group in enumerate(groups):
    obs_ids: dict[str, int] = {}
    act_ids: dict[str, int] = {}
    for g, (observations, actions, _) in enumerate(group):
      length = len(actions)
      obs[r, g, :length] = [
        obs_ids.setdefault(x, len(obs_ids)) for x in observations
      ]
      act[r, g, :length] = [
        act_ids.setdefault(x, len(act_ids)) for x in actions
      ]
  return {
    'obs': obs,
    'act': act,
    'length': np.array([[len(e.actions) for e in g] for g in groups], np.int16),
    'success': np.array([[e.won for e in g] for g in groups]),
  }
