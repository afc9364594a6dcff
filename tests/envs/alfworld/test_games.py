"""Game files and the generator."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from envs.alfworld import floorplans
from envs.alfworld.engine import Engine
from envs.alfworld.game import TASK_TYPES, Game
from envs.alfworld.games import load_games, read_game, write_game
from envs.alfworld.generate import (
  EASY,
  FULL,
  SPECS,
  SPLITS,
  GameSpec,
  generate_game,
)
from envs.alfworld.textworld import import_package
from envs.base import GameError, UnknownTask
from tests import alfworld_data

# Made anew only when the generator is meant to give other games:
# `digest(...)` of the first twelve games of each family and split.
DIGESTS = {
  ('easy', 'train'): '37142d478c175cf0',
  ('easy', 'valid_seen'): 'c161d4b22a74737a',
  ('easy', 'valid_unseen'): '7ef9cacd228b2e90',
  ('full', 'train'): '23de4143c2a2b1ad',
  ('full', 'valid_seen'): '6b8633e7ea999925',
  ('full', 'valid_unseen'): '314ffbb96da09228',
}


@pytest.fixture(autouse=True)
def _package() -> None:
  alfworld_data.need_package('alfworld')


@pytest.fixture(scope='module')
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
  return alfworld_data.unpack_released(
    tmp_path_factory.mktemp('released'), every=40
  )


def digest(family: str, split: str) -> str:
  games = [generate_game(SPECS[family], split, i) for i in range(12)]
  text = json.dumps([dataclasses.astuple(game) for game in games])
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def wins(game: Game) -> bool:
  engine = Engine(game)
  step = engine.reset()
  for command in game.walkthrough:
    assert not step.done
    step = engine.step(command)
  return step.won


def floor_plan(game: Game) -> int:
  return int(game.name.partition('/')[0].rpartition('-')[2])


def facts(game: Game) -> list[str]:
  """What holds at the start, one '(predicate thing thing)' each."""
  start = game.problem.partition('(:init')[2].partition('(:goal')[0]
  return re.findall(r'\(\w[^()]*\)', start)


def count(game: Game, predicate: str) -> int:
  return sum(fact.startswith(f'({predicate} ') for fact in facts(game))


# ------------------------------------------------------------- the generator


@pytest.mark.parametrize(('family', 'split'), sorted(DIGESTS))
def test_games_are_the_same_on_every_machine(family, split):
  assert digest(family, split) == DIGESTS[family, split]


def test_games_do_not_depend_on_the_hash_seed(monkeypatch):
  code = (
    'from envs.alfworld.generate import EASY, generate_game as g;'
    'print([g(EASY, "train", i) for i in range(6)])'
  )
  texts = set()
  for hash_seed in ('1', '2'):
    monkeypatch.setenv('PYTHONHASHSEED', hash_seed)
    run = [sys.executable, '-c', code]
    texts.add(subprocess.run(run, capture_output=True, check=True).stdout)
  assert len(texts) == 1


@pytest.mark.parametrize('split', SPLITS)
@pytest.mark.parametrize('family', sorted(SPECS))
def test_every_walkthrough_wins_and_all_types_occur(family, split):
  games = [generate_game(SPECS[family], split, i) for i in range(60)]
  assert [game.task_type for game in games[:6]] == list(TASK_TYPES)
  assert all(wins(game) for game in games)
  assert len({game.problem for game in games}) == len(games)
  assert all(2 <= len(game.walkthrough) <= 50 for game in games)


def test_unseen_floor_plans_are_held_out():
  plans = {
    split: {floor_plan(generate_game(EASY, split, i)) for i in range(150)}
    for split in SPLITS
  }
  assert not plans['valid_unseen'] & (plans['train'] | plans['valid_seen'])
  assert len(plans['train'] & plans['valid_seen']) > 40
  assert len(plans['valid_unseen']) > 18  # of 24


def test_train_and_valid_seen_share_no_game():
  problems = {
    split: {
      generate_game(EASY, split, i).problem.partition('(:objects')[2]
      for i in range(90)
    }
    for split in ('train', 'valid_seen')
  }
  assert not problems['train'] & problems['valid_seen']


def test_another_seed_is_another_game():
  one, two = (generate_game(EASY, 'train', 5, seed=seed) for seed in (0, 1))
  assert one != two
  assert one.task_type == two.task_type


@pytest.mark.parametrize('index', range(18))
def test_sizes_are_respected(index):
  spec = GameSpec(
    num_receptacles=(7, 7), num_objects=(2, 2), num_distractors=(5, 5)
  )
  game = generate_game(spec, 'train', index)
  assert count(game, 'receptacleType') == 7
  assert count(game, 'pickupable') == 7
  things = re.findall(r'\(objectType \S+ (\w+)Type\)', ' '.join(facts(game)))
  assert things.count(game.name.split('-')[1]) == 2
  assert len(things) == 7 + things.count('DeskLamp')


def test_full_games_take_the_whole_floor_plan():
  for index in range(12):
    game = generate_game(FULL, 'valid_unseen', index)
    plan = floorplans.load_floor_plan(floor_plan(game))
    assert count(game, 'receptacleType') == len(plan.receptacles)


def test_task_types_are_cycled():
  spec = dataclasses.replace(EASY, task_types=TASK_TYPES[3:5])
  types = [generate_game(spec, 'train', i).task_type for i in range(4)]
  assert types == [*TASK_TYPES[3:5], *TASK_TYPES[3:5]]


@pytest.mark.parametrize(
  'fields',
  [
    {'task_types': ('pick_and_fly',)},
    {'task_types': ()},
    {'num_receptacles': (2, 8)},
    {'num_objects': (3, 2)},
    {'num_distractors': (-1, 2)},
  ],
)
def test_impossible_families_are_refused_by_name(fields):
  with pytest.raises(ValueError, match=f'GameSpec.{next(iter(fields))}'):
    GameSpec(**fields)


def test_unknown_tasks_are_refused():
  with pytest.raises(UnknownTask, match='valid_unseen'):
    generate_game(EASY, 'test', 0)
  with pytest.raises(UnknownTask, match='-1'):
    generate_game(EASY, 'train', -1)


def test_a_family_larger_than_all_floor_plans_is_refused():
  spec = GameSpec(num_receptacles=(500, 500))
  with pytest.raises(GameError, match='num_receptacles'):
    generate_game(spec, 'train', 0)


def test_missing_package_says_how_to_get_it(monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(GameError, match='pip install --no-deps alfworld'):
    floorplans.package_file('data/alfred.pddl')


@pytest.mark.parametrize('index', range(6))
def test_walkthroughs_win_in_textworld(index, tmp_path):
  assert wins_in_textworld(generate_game(EASY, 'train', index), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('split', SPLITS)
@pytest.mark.parametrize('family', sorted(SPECS))
def test_more_walkthroughs_win_in_textworld(family, split, tmp_path):
  for index in range(12, 36):
    game = generate_game(SPECS[family], split, index)
    assert wins_in_textworld(game, tmp_path), game.name


def wins_in_textworld(game: Game, folder: Path) -> bool:
  """Plays the walkthrough in the alfworld package's own engine, from disk."""
  alfworld_data.need_package('textworld', 'alfworld')
  textworld, wrappers = import_package()
  path = write_game(game, folder, 'train')
  infos = textworld.EnvInfos(won=True, admissible_commands=True)
  world = textworld.start(str(path), infos, wrappers=[wrappers.AlfredDemangler])
  state = world.reset()
  for command in game.walkthrough:
    assert command in state['admissible_commands']
    state, _, _ = world.step(command)
  return state['won']


# ----------------------------------------------------------- files and loader


def test_written_games_read_back_equal_and_in_order(tmp_path):
  games = [generate_game(EASY, 'valid_seen', i) for i in range(12)]
  for game in games:
    write_game(game, tmp_path, 'valid_seen')
  paths = load_games(tmp_path, 'valid_seen')
  names = [path.relative_to(tmp_path).as_posix() for path in paths]
  assert names == sorted(names)
  by_name = {game.name: game for game in games}
  assert {path: read_game(path) for path in paths} == {
    path: by_name['/'.join(path.parts[-3:-1])] for path in paths
  }


def test_alfworld_finds_what_was_written(tmp_path):
  alfworld_data.need_package('textworld', 'alfworld')
  for index in range(6):
    write_game(generate_game(EASY, 'train', index), tmp_path, 'train')
  _, package = import_package()
  found = package.AlfredTWEnv({
    'env': {'goal_desc_human_anns_prob': 0, 'task_types': [1, 2, 3, 4, 5, 6]},
    'dataset': {'data_path': str(tmp_path), 'num_train_games': 0},
  })  # fmt: skip
  ours = load_games(tmp_path, 'train')
  assert sorted(found.game_files) == [str(path) for path in ours]
  assert len(ours) == 6


def test_some_task_types_only(tmp_path):
  for index in range(12):
    write_game(generate_game(EASY, 'train', index), tmp_path, 'train')
  paths = load_games(tmp_path, 'train', TASK_TYPES[:1])
  types = [read_game(path).task_type for path in paths]
  assert types == [TASK_TYPES[0]] * 2


def test_left_out_as_alfworld_does(tmp_path):
  game = generate_game(EASY, 'train', 0)
  kept = write_game(game, tmp_path, 'train')
  task, _, trial = game.name.partition('/')
  for name in (
    f'{task.replace("-None-", "-SlicedNone-")}/{trial}',
    f'pick_and_place_with_movable_recep-Pen-Mug-Desk-301/{trial}',
  ):
    write_game(dataclasses.replace(game, name=name), tmp_path, 'train')
  bad = write_game(
    dataclasses.replace(game, name=f'{task}/unsolvable'), tmp_path, 'train'
  )
  bad.write_text(bad.read_text().replace('lvable": true', 'lvable": false'))
  unsaid = write_game(
    dataclasses.replace(game, name=f'{task}/unsaid'), tmp_path, 'train'
  )
  content = json.loads(unsaid.read_text())
  del content['solvable']
  unsaid.write_text(json.dumps(content))
  assert load_games(tmp_path, 'train') == (kept,)


def test_root_is_taken_from_the_environment(tmp_path, monkeypatch):
  path = write_game(generate_game(EASY, 'train', 0), tmp_path, 'train')
  monkeypatch.setenv('ALFWORLD_DATA', str(tmp_path))
  assert load_games(None, 'train') == (path,)
  monkeypatch.delenv('ALFWORLD_DATA')
  with pytest.raises(GameError, match='ALFWORLD_DATA is not set'):
    load_games(None, 'train')


def test_errors_name_the_file_and_the_cure(tmp_path):
  path = write_game(generate_game(EASY, 'train', 0), tmp_path, 'train')
  for split in ('valid_unseen', '', '..', 'train/..'):
    with pytest.raises(UnknownTask, match='has train.*alfworld-download'):
      load_games(tmp_path, split)
  with pytest.raises(GameError, match='no splits.*alfworld-download'):
    load_games(tmp_path / 'elsewhere', 'train')
  with pytest.raises(GameError, match='1 game files'):
    load_games(tmp_path, 'train', TASK_TYPES[4:])
  with pytest.raises(GameError, match='does not exist'):
    read_game(path.with_name('other.tw-pddl'))
  text = path.read_text()
  path.write_text(text[: len(text) // 2])
  with pytest.raises(GameError, match=r'game.tw-pddl is not JSON'):
    read_game(path)
  path.write_text(text.replace('"grammar"', '"grammer"'))
  with pytest.raises(GameError, match="no text 'grammar'"):
    read_game(path)
  path.write_text('[]')
  with pytest.raises(GameError, match='holds list'):
    read_game(path)
  for name in ('x', 'a-b-None-c-kitchen/trial', 'a-b-None-c-1/t/u'):
    with pytest.raises(GameError, match='Cannot file'):
      write_game(Game(name, '', '', '', ''), tmp_path, 'train')


def test_unreadable_files_are_game_errors(tmp_path):
  path = write_game(generate_game(EASY, 'train', 0), tmp_path, 'train')
  path.unlink()
  path.mkdir()  # a folder cannot be read as a file, whoever asks
  with pytest.raises(GameError, match='cannot be read'):
    load_games(tmp_path, 'train')
  with pytest.raises(GameError, match='cannot be read'):
    read_game(path)


def test_released_games_load(released):
  for split, most in (('train', 89), ('valid_seen', 4)):
    paths = load_games(released, split)
    assert most - 1 <= len(paths) <= most
    games = [read_game(path) for path in paths]
    assert all(game.walkthrough for game in games)
    assert all(game.name.startswith(game.task_type) for game in games)


def test_generated_problems_use_the_facts_of_released_ones(released):
  def predicates(games):
    return {fact.split()[0][1:] for game in games for fact in facts(game)}

  real = predicates(read_game(x) for x in load_games(released, 'train'))
  made = predicates(generate_game(FULL, 'train', i) for i in range(12))
  assert made <= real
  # Nothing starts inside a mug or cold here.
  assert real - made <= {'inReceptacleObject', 'isCool'}
