"""The advantage lab's player, truths and cases, beside closed forms."""

import dataclasses
import functools
import math
import random

import numpy as np
import pytest

from envs.alfworld import floorplans
from envs.alfworld.game import TASK_TYPES
from envs.alfworld.generate import SPECS
from envs.base import Step
from experiments.lab import cells as cells_lib
from experiments.lab import estimates, policy, reading, truth
from experiments.lab import statistics as stats
from experiments.lab.cases import (
  Case,
  Settings,
  compute,
  first_moment,
  pick_step,
  study,
)
from experiments.lab.play import Moment, Rules, moment_after, play
from experiments.lab.policy import Choice
from experiments.lab.reading import View
from tests.alfworld_data import need_package


@pytest.fixture(autouse=True)
def floor_plans():
  need_package('alfworld')


SETTINGS = Settings(
  seed=0,
  steps=3,
  continuations=8,
  replicates=2,
  episodes=4,
  members=2,
  max_turns=20,
  gamma=0.95,
  reward=10.0,
  family='easy',
  distractors=(0, 2),
)


# A world of two turns: behind each door is a prize in another box.
class TwoDoors:
  """left -> the prize is in box 1; right -> it is in box 2."""

  def __init__(self, door=''):
    self.door = door

  def copy(self):
    return TwoDoors(self.door)

  def step(self, command):
    if not self.door:
      self.door = command
      return Step('boxes', ('box 1', 'box 2'))
    won = command == {'left': 'box 1', 'right': 'box 2'}[self.door]
    return Step('open', (), won=won)


SKILL = 0.6
RULES = Rules(depth=1, max_turns=2, gamma=0.9, reward=10, hidden=frozenset())
DOORS = Moment(TwoDoors(), '', (), Step('doors', ('left', 'right')), 0)


def first_choice(view):
  """Prefers the first command: pi = 0.8 for it, 0.2 for the other."""
  return Choice(view.offered[:1], view.offered, SKILL)


PI = SKILL + (1 - SKILL) / 2
Q = {'left': 9 * PI, 'right': 9 * (1 - PI)}  # the prize is a turn away
V = PI * Q['left'] + (1 - PI) * Q['right']


@pytest.mark.parametrize('action', ['left', 'right'])
def test_truth_of_a_small_world_and_its_standard_errors(action):
  drawn = [
    truth.step_truth(DOORS, action, RULES, first_choice, random.Random(i), 60)
    for i in range(200)
  ]
  assert drawn[0].probability == pytest.approx(PI if action == 'left' else 0.2)
  for name, exact in ('value', V), ('advantage', Q[action] - V):
    means = np.array([getattr(x, name).mean for x in drawn])
    errors = np.array([getattr(x, name).error for x in drawn])
    total = means.std() / math.sqrt(len(means))
    assert abs(means.mean() - exact) < 4 * total
    # The reported error is the spread of what it is an error of.
    np.testing.assert_allclose(
      np.sqrt((errors**2).mean()), means.std(), rtol=0.2
    )


def test_value_by_whole_continuations_is_the_same_value():
  found = truth.value_of(DOORS, RULES, first_choice, random.Random(0), 4000)
  assert abs(found.mean - V) < 4 * found.error


def test_a_move_without_alternative_has_no_advantage():
  def only(view):
    return Choice(view.offered[:1], view.offered[:1], SKILL)

  found = truth.step_truth(DOORS, 'left', RULES, only, random.Random(0), 2)
  assert found.probability == 1
  assert found.advantage == (0, 0)
  assert found.value.mean == found.taken.mean == 9


def test_draws_other_than_an_action_have_the_rest_of_the_distribution():
  choice = Choice(('a', 'b'), ('a', 'b', 'c', 'd'), 0.5)
  shares = {x: choice.probability(x) for x in choice.offered}
  assert shares == pytest.approx(
    {'a': 0.375, 'b': 0.375, 'c': 0.125, 'd': 0.125}
  )
  rng = random.Random(0)
  drawn = [choice.draw_other(rng, 'a') for _ in range(5000)]
  for x in 'bcd':
    assert drawn.count(x) / 5000 == pytest.approx(shares[x] / 0.625, abs=0.03)


@functools.cache
def judged_doors():
  """Cases of the two doors, undiscounted, and what RLOO says of them."""
  settings = dataclasses.replace(
    SETTINGS, steps=24, continuations=150, replicates=40, max_turns=2
  )
  rules = dataclasses.replace(RULES, gamma=1.0)
  records = [
    study(Case(settings, SKILL, 1, i), DOORS, rules, first_choice)
    for i in range(settings.steps)
  ]
  cell = {name: np.array([x[name] for x in records]) for name in records[0]}
  found = [estimates.Estimator('rloo', 'mean')]
  return cell, estimates.estimate(cell, rules, 4, found)


def test_an_unbiased_estimator_shows_no_bias():
  """RLOO's R - mean of the others, in the first turn, is Q - V on average."""
  cell, judged = judged_doors()
  first = cell['turn'] == 0
  assert 4 < first.sum() < 24
  truths = stats.Truths(
    *(cell[x][first] for x in ('advantage', 'advantage_error', 'weight'))
  )
  said = judged.advantages[:, first]
  # Every draw of a step is alike: two kinds of steps, so sum over all draws.
  gap = said[0].mean(1) - truths.advantage
  error = np.sqrt(said[0].var(1) / said.shape[2] + truths.error**2)
  assert (np.abs(gap) < 4 * error).all()
  found = stats.parts(
    said, truths, truths.weight / truths.weight.sum(), np.ones(1)
  )
  assert abs(found.squared_bias[0]) < 0.2 < found.variance[0]


def test_boxes_look_alike_but_are_not_worth_the_same():
  """The state 'boxes' joins rows of both doors; V(h) is 8 or 2."""
  cell, judged = judged_doors()
  second = cell['turn'] == 1
  values = cell['value'][second]
  np.testing.assert_allclose(
    np.minimum(abs(values - 8), abs(values - 2)), 0, atol=0.7
  )
  shared = cell['member_depth'][second]
  apart = np.abs(cell['member_value'][second] - values[:, None])
  assert (shared == 1).all()  # observations alone do not tell the doors apart
  assert ((apart < 1.5) | (apart > 4.5)).all()
  assert (apart > 4.5).any()
  part = {k: x[second] for k, x in cell.items()}
  gap = stats.value_gap(part, 1)
  assert gap == stats.value_gap(part, 0)
  assert gap.rms > 2
  truths = stats.Truths(
    *(part[x] for x in ('advantage', 'advantage_error', 'weight'))
  )
  said, size = judged.level[1][second], judged.size[1][second]
  found = stats.level_bias(said, size > 1, truths)
  assert found.rms > 1
  assert (size == 4).all()


def test_the_picked_step_stands_in_all_groups():
  case = Case(SETTINGS, 0.6, 2, 1)
  record = compute(case)
  start, rules = first_moment(SETTINGS, 1), SETTINGS.rules(2)
  player = functools.partial(policy.scripted, skill=0.6)
  base = play(start, rules, player, case.rng('base'))
  turn = record['turn']
  assert record['action'] == base.actions[turn]
  own = record['obs'][:, 0, : turn + 1]
  assert (own == own[0]).all()
  assert (record['act'][:, 0, turn] >= 0).all()
  assert record['obs'].shape == (2, 4, 20)
  assert ((record['obs'] >= 0).sum(2) == record['length']).all()


def test_a_chance_of_being_picked_is_undone_by_the_weight():
  """The weighted mean over picks of any f is its sum over the turns."""
  episode = play(DOORS, RULES, first_choice, random.Random(3), ['right'])
  moments = [DOORS, moment_after(DOORS, RULES, ['right'])]
  rng = random.Random(0)
  picks = [
    pick_step(moments, episode, RULES, first_choice, rng) for _ in range(4000)
  ]
  for turn in range(2):
    total = sum(weight for t, weight in picks if t == turn) / len(picks)
    assert total == pytest.approx(1, abs=0.1)


# The scripted player.
def test_it_understands_every_sentence_of_the_six_tasks():
  goals = floorplans.load_tables().goals
  words = {'obj': 'saltshaker', 'recep': 'countertop', 'toggle': 'desklamp'}
  for task in TASK_TYPES:
    for sentence in goals[task][1]:
      goal = reading.read_goal(sentence.format(**words))
      assert goal.target == 'saltshaker'
      assert (goal.lamp, goal.destination) == (
        ('desklamp', '') if 'light' in task else ('', 'countertop')
      )
      verbs = [x for x in ('clean', 'heat', 'cool') if x in task]
      assert goal.verb == (verbs or [''])[0]
      assert goal.two == ('two' in task)
  with pytest.raises(ValueError, match='six task types'):
    reading.read_goal('sing')


ROOM = tuple(f'go to {x}' for x in ('shelf 1', 'shelf 2', 'shelf 3'))
EMPTY = 'You arrive at shelf {0}. On the shelf {0}, you see nothing.'


def test_what_the_window_holds_decides_and_nothing_else():
  offered = (*ROOM[:2], 'examine shelf 3')
  now = EMPTY.format(3)
  remembered = (EMPTY.format(1), 'go to shelf 3')
  views = [
    View('put some mug on desk', window, now, offered)
    for window in ((), (remembered,))
  ]
  forgot, knows = map(policy.good_moves, views)
  assert forgot == ROOM[:2]
  assert knows == (ROOM[1],)
  again = View(*(x if isinstance(x, tuple) else f'{x}' for x in views[1]))
  policy.good_moves.cache_clear()
  for seed in range(20):
    drawn = [
      policy.scripted(v, skill=0.5).draw(random.Random(seed))
      for v in (views[1], again)
    ]
    assert drawn[0] == drawn[1]


def test_a_forgotten_treatment_is_doubted():
  offered = ('examine mug 1', 'go to sinkbasin 1', 'move mug 1 to desk 1')
  task, now = 'put a clean mug in desk', 'You arrive at desk 1.'
  told = ('You clean the mug 1 using the sinkbasin 1.', 'go to desk 1')
  not_yet = ('You pick up the mug 1 from the shelf 1.', 'go to desk 1')
  moves = [
    policy.good_moves(View(task, window, now, offered))
    for window in ((told,), (not_yet,), ())
  ]
  assert moves[0] == ('move mug 1 to desk 1',)
  assert moves[1] == ('go to sinkbasin 1',)
  assert set(moves[2]) == {*moves[0], *moves[1]}


@functools.cache
def successes(skill, depth):
  rules, won = SETTINGS.rules(depth), 0
  player = functools.partial(policy.scripted, skill=skill)
  for index in range(40):
    start = first_moment(SETTINGS, index)
    won += play(start, rules, player, random.Random(index)).won
  return won / 40


def test_skill_and_memory_help():
  assert successes(0.3, 2) < 0.45 < 0.5 < successes(0.6, 2) < successes(1.0, 4)
  assert successes(1.0, 4) > 0.9
  assert successes(0.6, 0) < successes(0.6, 4)


def test_replayed_commands_lead_to_the_same_moment():
  start, rules = first_moment(SETTINGS, 0), SETTINGS.rules(2)
  player = functools.partial(policy.scripted, skill=0.3)
  episode = play(start, rules, player, random.Random(0))
  for t in (0, 1, 5):
    moment = moment_after(start, rules, episode.actions[:t])
    pairs = list(zip(episode.observations[:t], episode.actions, strict=False))
    assert moment.step.observation == episode.observations[t]
    assert moment.window == tuple(pairs[-2:])
    assert moment.turn == t
    rest = play(moment, rules, player, random.Random(1), episode.actions[t:])
    assert rest.actions == episode.actions[t:]
    assert rest.won == episode.won
  assert start.turn == 0
  assert start.view(rules).window == ()


# Cells.
def test_workers_and_interruptions_change_nothing(tmp_path, monkeypatch):
  said = []
  run = functools.partial(cells_lib.cells, SETTINGS, show=said.append)
  players = [(0.5, 0), (0.5, 1)]
  alone = dict(run(players, tmp_path / 'alone', workers=1))
  assert [x for x in said if 'cell' in x]
  assert '3 of 3' in said[-1]
  shared = dict(run(players, tmp_path / 'shared', workers=2))

  stopped = run(players, tmp_path / 'stopped', workers=1)
  next(stopped)
  stopped.close()
  computed = []
  monkeypatch.setattr(
    cells_lib, 'compute', lambda case: computed.append(case) or compute(case)
  )
  resumed = dict(run(players, tmp_path / 'stopped', workers=1))
  assert {case.depth for case in computed} == {1}
  for other in (shared, resumed):
    for player, cell in alone.items():
      assert cell.keys() == other[player].keys()
      for name, values in cell.items():
        np.testing.assert_array_equal(values, other[player][name])


def test_a_folder_of_other_settings_is_refused(tmp_path):
  cells_lib.claim(SETTINGS, tmp_path)
  cells_lib.claim(SETTINGS, tmp_path)
  other = dataclasses.replace(SETTINGS, continuations=9)
  with pytest.raises(
    cells_lib.LabError, match=r'continuations=8 \(now 9\).*--out'
  ):
    cells_lib.claim(other, tmp_path)


def test_streams_differ_by_purpose_and_by_cell():
  cases = [
    Case(SETTINGS, s, d, i) for s in (0.3, 0.6) for d in (0, 1) for i in (0, 1)
  ]
  first = {
    case.rng(purpose).random()
    for case in cases
    for purpose in ('base', 'pick', 'truth', 'groups', 'members')
  }
  assert len(first) == 5 * len(cases)
  assert SETTINGS.family in SPECS
