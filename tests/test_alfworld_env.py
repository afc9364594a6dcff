"""ALFWorld as a world: the contract, the step limit, its options."""

import pytest

from envs import checker, registry
from envs.alfworld.env import AlfWorld
from envs.alfworld.game import TASK_TYPES
from envs.base import GameError, ResetNeeded, Task, UnknownTask

EASY = {'family': 'easy', 'max_turns': 5}


def test_the_contract_holds():
  world = AlfWorld(**EASY)
  tasks = [Task(split, i) for split in ('train', 'valid_seen') for i in (0, 5)]
  checker.check_env(world.make_env, tasks)


def test_the_step_limit_truncates_and_the_episode_is_over():
  env = AlfWorld(**EASY).make_env()
  assert not env.reset(Task('train', 0)).done
  steps = [env.step('look') for _ in range(5)]
  assert [step.truncated for step in steps] == [False] * 4 + [True]
  assert not steps[-1].terminated and not steps[-1].won
  with pytest.raises(ResetNeeded):
    env.step('look')


def test_a_walkthrough_wins_with_reward_one_at_its_end():
  world = AlfWorld(family='easy')
  task = Task('valid_unseen', 3)
  env = world.make_env()
  env.reset(task)
  steps = [env.step(command) for command in world.game(task).walkthrough]
  assert [step.reward for step in steps] == [0.0] * (len(steps) - 1) + [1.0]
  assert steps[-1].won and steps[-1].terminated and not steps[-1].truncated


def test_episodes_of_one_game_do_not_meet():
  world = AlfWorld(**EASY)
  first, second = world.make_env(), world.make_env()
  start = first.reset(Task('train', 1))
  moved = first.step(start.admissible[0])
  assert second.reset(Task('train', 1)) == start
  assert second.step(start.admissible[0]) == moved


def test_kinds_follow_the_index_and_a_choice_of_types():
  world = AlfWorld(**EASY)
  kinds = [world.kind(Task('train', i)) for i in range(6)]
  assert kinds == list(TASK_TYPES)
  some = AlfWorld(task_types=TASK_TYPES[1:3], **EASY)
  assert some.kind(Task('train', 3)) == TASK_TYPES[2]
  assert some.num_tasks('train') is None


def test_demonstrations_win_and_mark_what_is_not_the_experts():
  world = AlfWorld(family='easy', max_turns=40)
  clean = world.demonstrate(Task('train', 2), seed=0, explore=1.0, noise=0.0)
  assert clean and all(turn.expert for turn in clean)
  noisy = world.demonstrate(Task('train', 2), seed=0, explore=1.0, noise=0.5)
  assert not all(turn.expert for turn in noisy)


@pytest.mark.parametrize(
  'options', [{'data': 'web'}, {'engine': 'slow'}, {'family': 'huge'}]
)
def test_wrong_options_name_the_right_ones(options):
  with pytest.raises(GameError, match='expected'):
    AlfWorld(**options)


def test_a_missing_game_and_a_mistyped_option(tmp_path, monkeypatch):
  with pytest.raises(UnknownTask):
    AlfWorld().make_env().reset(Task('nowhere', 0))
  monkeypatch.delenv('ALFWORLD_DATA', raising=False)
  with pytest.raises(GameError, match='ALFWORLD_DATA'):
    AlfWorld(data='files').num_tasks('train')
  with pytest.raises(registry.UnknownWorld, match='max_turn'):
    registry.make_world('alfworld', {'max_turn': 3})
