"""The expert, on generated and on released games."""

from __future__ import annotations

import dataclasses
import random
import statistics

import pytest

from envs.alfworld.engine import Engine
from envs.alfworld.expert import Errand, Expert, demonstration, read_errand
from envs.alfworld.game import TASK_TYPES, Game
from envs.alfworld.games import load_games, read_game
from envs.alfworld.generate import EASY, FULL, generate_game
from envs.base import GameError
from tests import alfworld_data


@pytest.fixture(autouse=True)
def _package() -> None:
  alfworld_data.need_package('alfworld')


@pytest.fixture(scope='module')
def released(tmp_path_factory: pytest.TempPathFactory) -> list[Game]:
  root = alfworld_data.unpack_released(
    tmp_path_factory.mktemp('released'), every=20
  )
  paths = [
    x for split in ('train', 'valid_seen') for x in load_games(root, split)
  ]
  return [read_game(path) for path in paths]


def easy_games(number: int) -> list[Game]:
  return [generate_game(EASY, 'valid_seen', i) for i in range(number)]


def success(games: list[Game], **options) -> float:
  played = [demonstration(game, seed=0, **options) for game in games]
  return statistics.mean(demo.won for demo in played)


@pytest.mark.parametrize(
  ('index', 'treatment', 'count'),
  [
    (0, '', 1),
    (1, '', 1),
    (2, 'isclean', 1),
    (3, 'ishot', 1),
    (4, 'iscool', 1),
    (5, '', 2),
  ],
)
def test_goals_of_all_types_are_understood(index, treatment, count):
  game = generate_game(EASY, 'train', index)
  _, target, _, destination, _ = game.name.partition('/')[0].split('-')
  light = destination == 'DeskLamp'
  assert read_errand(Engine(game)) == Errand(
    target=f'{target.lower()}type',
    count=count,
    destination='' if light else f'{destination.lower()}type',
    treatment=treatment,
    lamp='desklamptype' if light else '',
  )


def test_an_unknown_goal_is_refused():
  game = generate_game(EASY, 'train', 0)
  start = game.problem.index('(:goal')
  goal = '(:goal (exists (?r - receptacle) (opened ?r))))'
  game = dataclasses.replace(game, problem=game.problem[:start] + goal)
  with pytest.raises(GameError, match='does not understand the goal'):
    read_errand(Engine(game))


def test_released_games_of_all_types_are_solved(released):
  assert {game.task_type for game in released} == set(TASK_TYPES)
  assert success(released, explore=0.0, max_turns=50) >= 0.95


@pytest.mark.parametrize('explore', [0.0, 0.5, 1.0])
@pytest.mark.parametrize('shuffle', [True, False])
def test_generated_games_are_solved(explore, shuffle):
  games = easy_games(60)
  assert success(games, explore=explore, max_turns=50, shuffle=shuffle) == 1


def test_exploring_takes_longer():
  games = easy_games(60)
  turns = [
    statistics.mean(
      len(demonstration(game, 0, explore, max_turns=50).steps) for game in games
    )
    for explore in (0.0, 0.5, 1.0)
  ]
  assert turns[0] < turns[1] < turns[2]


def test_noise_is_recovered_from():
  assert success(easy_games(120), explore=1.0, max_turns=80, noise=0.3) > 0.9


def test_every_advice_is_admissible_whatever_happened_before():
  for seed, game in enumerate(easy_games(60)):
    rng = random.Random(seed)
    engine = Engine(game)
    step, expert = engine.reset(), Expert(engine, rng, explore=1.0)
    for _ in range(40):
      assert expert.act() in step.admissible, game.name
      step = engine.step(rng.choice(step.admissible))
      if step.done:
        break


def test_advice_takes_over_after_another_policy():
  for seed, game in enumerate(easy_games(60)):
    rng = random.Random(seed)
    engine = Engine(game)
    step, expert = engine.reset(), Expert(engine, rng)
    for _ in range(20):
      if not step.done:
        step = engine.step(rng.choice(step.admissible))
    turns = 0
    while not step.done and turns < 30:
      step, turns = engine.step(expert.act()), turns + 1
    assert step.won, game.name


def test_advice_is_a_function_of_the_state():
  game = generate_game(FULL, 'train', 3)
  engine = Engine(game)
  engine.reset()
  expert = Expert(engine, random.Random(0), explore=1.0)
  assert [expert.act() for _ in range(3)] == [expert.act()] * 3


def search_order(game: Game) -> list[str]:
  """Where one goes who knows nothing, until a target is in sight."""
  engine = Engine(game)
  engine.reset()
  kind = read_errand(engine).target
  targets = [x for x in engine.objects if engine.kind[x] == kind]

  def rank(place):
    word, number = place.split()
    return not engine.accepts(place, targets[0]), word, int(number)

  holders = {place for x in targets for place in engine.containers(x)}
  went: list[str] = []
  seen: set[str] = set()
  for place in sorted(engine.place, key=rank):
    if seen & holders:
      break
    if place not in seen:
      went.append(place)
      here = {x for x in engine.place if engine.place[x] == engine.place[place]}
      seen |= {x for x in here if not engine.fact('openable', x)} | {place}
  return went


def test_an_exploring_expert_searches_as_one_who_knows_nothing():
  games, knowing = easy_games(60), 0
  for game in games:
    visits = {}
    for explore in (0.0, 1.0):
      demo = demonstration(game, 0, explore, max_turns=50, shuffle=False)
      actions = [x.action for x in demo.steps]
      take = next(i for i, x in enumerate(actions) if x.startswith('take '))
      visits[explore] = [
        x.removeprefix('go to ') for x in actions[:take] if x.startswith('go ')
      ]
    assert visits[1.0] == search_order(game), game.name
    knowing += visits[0.0] != visits[1.0]
  assert knowing > len(games) / 2


def test_likely_places_come_first():
  for game in easy_games(60):
    engine = Engine(game)
    engine.reset()
    errand = read_errand(engine)
    if errand.lamp:
      continue
    target = next(x for x in engine.objects if engine.kind[x] == errand.target)
    demo = demonstration(game, 1, explore=1.0, max_turns=50)
    takes = [x.action.startswith('take ') for x in demo.steps]
    for step in demo.steps[: takes.index(True)]:
      if step.action.startswith('go to '):
        assert engine.accepts(step.action[len('go to ') :], target)


def test_demonstrations_are_reproducible_and_mark_noise():
  game = easy_games(1)[0]
  one, two, other = (
    demonstration(game, seed, 1.0, max_turns=30, noise=0.5)
    for seed in (0, 0, 1)
  )
  assert one == two != other
  assert any(turn.action != turn.advice for turn in one.steps)
  for turn in one.steps:
    assert {turn.action, turn.advice} <= set(turn.step.admissible)
  quiet = demonstration(game, 0, 1.0, max_turns=30)
  assert all(turn.action == turn.advice for turn in quiet.steps)


def test_a_demonstration_is_cut_at_its_horizon():
  game = generate_game(FULL, 'train', 0)
  demo = demonstration(game, 0, explore=0.0, max_turns=1)
  assert len(demo.steps) == 1
  assert not demo.won
