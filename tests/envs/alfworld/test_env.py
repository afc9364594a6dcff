"""ALFWorld as a world: the contract, the step limit, its options."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from envs import checker, registry
from envs.alfworld import games
from envs.alfworld.engine import Engine
from envs.alfworld.env import AlfWorld
from envs.alfworld.game import TASK_TYPES
from envs.alfworld.generate import EASY as EASY_SPEC
from envs.alfworld.generate import SPLITS, generate_game
from envs.base import (
  BadOptions,
  GameError,
  ResetNeeded,
  Task,
  UnknownTask,
  UnsupportedDomain,
)
from tests import alfworld_data

EASY = {'family': 'easy', 'max_turns': 5}


@pytest.fixture(autouse=True)
def _package():
  alfworld_data.need_package('alfworld')


def write_games(root, *changes, split='train'):
  """Files one easy game per change of fields; returns the files' world."""
  for index, fields in enumerate(changes):
    game = generate_game(EASY_SPEC, split, index)
    games.write_game(dataclasses.replace(game, **fields), root, split)
  return AlfWorld(data='files', root=str(root))


def test_the_contract_holds():
  world = AlfWorld(**EASY)
  tasks = [Task(split, i) for split in SPLITS for i in (0, 5)]
  checker.check_env(world.make_env, tasks)


def test_the_contract_holds_for_files(tmp_path):
  world = write_games(tmp_path, *[{}] * 6)
  tasks = [Task('train', i) for i in range(world.num_tasks('train'))]
  checker.check_env(world.make_env, tasks)
  assert sorted(map(world.kind, tasks)) == sorted(TASK_TYPES)


def test_the_contract_holds_for_the_reference_engine():
  alfworld_data.need_package('textworld')
  world = AlfWorld(engine='textworld', **EASY)
  checker.check_env(world.make_env, [Task('train', 0)])


def test_an_environment_holds_one_copy_of_the_planner():
  alfworld_data.need_package('textworld')
  maps = Path('/proc/self/maps')
  if not maps.is_file():
    pytest.skip(f'{maps} is not there')

  def copies():
    lines = maps.read_text().splitlines()
    return len({x.split()[5] for x in lines if 'libdownward' in x})

  before = copies()
  env = AlfWorld(engine='textworld', family='easy').make_env()
  fast = AlfWorld(family='easy').make_env()
  for index in range(5):
    task = Task('train', index)
    step = env.reset(task)
    assert step == fast.reset(task)
    assert env.step(step.admissible[0]) == fast.step(step.admissible[0])
  assert copies() <= before + 1


def test_the_reference_engine_leaves_the_process_as_it_was(tmp_path):
  alfworld_data.need_package('textworld')
  code = (
    'import os, sys\n'
    'from envs import registry\n'
    'from envs.base import Task\n'
    "world = registry.make_world('alfworld', {'engine': 'textworld'})\n"
    "world.make_env().reset(Task('train', 0))\n"
    "assert sys.argv == ['-c', '--flag=1'], sys.argv\n"
    "assert os.environ.get('ALFWORLD_DATA', '') == '', os.environ\n"
  )
  for unset in ({}, {'ALFWORLD_DATA': ''}):
    kept = {k: v for k, v in os.environ.items() if k != 'ALFWORLD_DATA'}
    subprocess.run(
      [sys.executable, '-c', code, '--flag=1'],
      env={**kept, **unset, 'HOME': str(tmp_path)},
      check=True,
    )
  assert not (tmp_path / '.cache' / 'alfworld').exists()


def test_the_step_limit_truncates_and_the_episode_is_over():
  env = AlfWorld(**EASY).make_env()
  assert not env.reset(Task('train', 0)).done
  steps = [env.step('look') for _ in range(5)]
  assert [step.truncated for step in steps] == [False] * 4 + [True]
  assert not steps[-1].terminated
  assert not steps[-1].won
  with pytest.raises(ResetNeeded):
    env.step('look')


def test_a_walkthrough_wins_with_reward_one_at_its_end():
  world = AlfWorld(family='easy')
  task = Task('valid_unseen', 3)
  env = world.make_env()
  env.reset(task)
  steps = [env.step(command) for command in world.game(task).walkthrough]
  assert [step.reward for step in steps] == [0.0] * (len(steps) - 1) + [1.0]
  assert steps[-1].won
  assert steps[-1].terminated
  assert not steps[-1].truncated


def test_episodes_of_one_game_do_not_meet():
  def alone(*actions):
    env = AlfWorld(**EASY).make_env()
    env.reset(Task('train', 1))
    return [env.step(action) for action in actions][-1]

  world = AlfWorld(**EASY)
  first, second = world.make_env(), world.make_env()
  start = first.reset(Task('train', 1))
  assert second.reset(Task('train', 1)) == start
  walk = next(x for x in start.admissible if x.startswith('go to'))
  first.step(walk)
  assert second.step('look') == alone('look') != alone(walk, 'look')
  assert first.step('look') == alone(walk, 'look')


def test_kinds_follow_the_index_and_a_choice_of_types():
  world = AlfWorld(**EASY)
  kinds = [world.kind(Task('train', i)) for i in range(6)]
  assert kinds == list(TASK_TYPES)
  some = AlfWorld(task_types=TASK_TYPES[1:3], **EASY)
  assert some.kind(Task('train', 3)) == TASK_TYPES[2]
  assert some.num_tasks('train') is None
  with pytest.raises(UnknownTask, match='valid_seen'):
    some.num_tasks('valid')


def test_kinds_need_no_game(monkeypatch):
  world = AlfWorld(**EASY)
  monkeypatch.setattr(world, 'game', None)
  assert world.kind(Task('train', 7)) == TASK_TYPES[1]
  for task in (Task('nowhere', 0), Task('train', -1)):
    with pytest.raises(UnknownTask):
      world.kind(task)


def test_demonstrations_win_and_tell_advice_from_noise():
  world = AlfWorld(family='easy', max_turns=40)
  clean = world.demonstrate(Task('train', 2), seed=0, explore=1.0, noise=0.0)
  assert clean
  assert all(turn.action == turn.advice for turn in clean)
  noisy = world.demonstrate(Task('train', 2), seed=0, explore=1.0, noise=0.5)
  assert any(turn.action != turn.advice for turn in noisy)


def test_a_walkthrough_stands_in_for_an_expert_who_fails():
  world, task = AlfWorld(family='easy'), Task('train', 0)
  walkthrough = world.game(task).walkthrough
  tight = AlfWorld(family='easy', max_turns=len(walkthrough))
  turns = tight.demonstrate(task, seed=0, explore=1.0, noise=1.0)
  assert tuple(turn.action for turn in turns) == walkthrough
  assert all(turn.advice == turn.action for turn in turns)
  env = world.make_env()
  assert turns[0].step == env.reset(task)
  assert [x.step for x in turns[1:]] == list(map(env.step, walkthrough[:-1]))
  short = AlfWorld(family='easy', max_turns=len(walkthrough) - 1)
  assert short.demonstrate(task, seed=0, explore=0.0, noise=0.0) == []


def test_a_walkthrough_stands_in_for_a_goal_that_is_not_understood(tmp_path):
  game = generate_game(EASY_SPEC, 'train', 0)
  walk = next(x for x in game.walkthrough if x.startswith('open '))
  place = Engine(game).id_of[walk.removeprefix('open ')]
  start = game.problem.index('(:goal')
  odd = {
    'problem': game.problem[:start] + f'(:goal (opened {place})))',
    'walkthrough': game.walkthrough[: game.walkthrough.index(walk) + 1],
  }
  task, how = Task('train', 0), {'seed': 0, 'explore': 0.0, 'noise': 0.0}
  turns = write_games(tmp_path / 'a', odd).demonstrate(task, **how)
  assert tuple(turn.action for turn in turns) == odd['walkthrough']
  wrong = write_games(tmp_path / 'b', {**odd, 'walkthrough': ('look',)})
  assert wrong.demonstrate(task, **how) == []
  without = write_games(tmp_path / 'c', {**odd, 'walkthrough': ()})
  with pytest.raises(GameError, match='does not understand the goal'):
    without.demonstrate(task, **how)


def test_a_reset_that_fails_ends_the_old_episode(tmp_path):
  world = write_games(tmp_path, {}, {'domain': '(define (domain chess))'})
  env = world.make_env()
  kinds = [world.kind(Task('train', i)) for i in range(2)]
  good = Task('train', kinds.index(TASK_TYPES[0]))
  for task, error in (
    (Task('no such split', 0), UnknownTask),
    (Task('train', 2), UnknownTask),
    (Task('train', 1 - good.index), UnsupportedDomain),
  ):
    env.reset(good)
    with pytest.raises(error):
      env.reset(task)
    with pytest.raises(ResetNeeded):
      env.step('look')


@pytest.mark.parametrize(
  'options',
  [
    {'data': 'web'},
    {'engine': 'slow'},
    {'family': 'huge'},
    {'max_turns': 0},
    {'max_turns': '9'},
    {'max_turn': 3},
    {'num_receptacles': (6,)},
    {'num_objects': (1, 2, 3)},
    {'num_distractors': ('3', '6')},
    {'num_distractors': 3},
    {'num_receptacles': (2, 8)},
    {'task_types': ('pick_and_fly',)},
    {'task_types': 3},
  ],
)
def test_wrong_options_are_told_by_name(options):
  with pytest.raises(BadOptions, match=next(iter(options))):
    registry.make_world('alfworld', options)


def test_a_missing_game(monkeypatch):
  with pytest.raises(UnknownTask):
    AlfWorld().make_env().reset(Task('nowhere', 0))
  monkeypatch.delenv('ALFWORLD_DATA', raising=False)
  with pytest.raises(GameError, match='ALFWORLD_DATA'):
    AlfWorld(data='files').num_tasks('train')
