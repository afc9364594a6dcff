"""The fast ALFWorld engine against the alfworld package's own, step by step."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator

import pytest

from envs.alfworld.engine import NOTHING_HAPPENS, Engine
from envs.alfworld.expert import Expert
from envs.alfworld.game import TASK_TYPES, Game
from envs.alfworld.generate import EASY, FULL, SPLITS, generate_game
from envs.alfworld.textworld import TextworldEngine
from envs.base import EnvError, GameError, ResetNeeded, Step, UnsupportedDomain
from tests import alfworld_data

SHARDS = 20  # of the long comparison, so that its progress can be seen
NONSENSE = (
  '', ' ', '\n', 'LOOK', 'Go to fridge 1', 'look around', 'xyzzy', 'help me',
  'take', 'take apple 1', 'open', 'go to nowhere 1', 'go to  fridge 1',
  'put apple 1 in/on fridge 1', 'inventory;', '"look"', '{r}', '#look#',
  'ouvre le réfrigérateur', '打开冰箱 1', 'look\x00', '🙂', 'go to ' * 500,
)  # fmt: skip


def assert_same(ours: Engine, reference: TextworldEngine, command: str) -> Step:
  """Plays a command in both; text, commands, reward, won, done must agree."""
  actual, expected = ours.step(command), reference.step(command)
  assert actual == expected, f'{ours.game.name}: after {command!r}'
  return actual


@functools.cache
def reference_engine() -> TextworldEngine:
  """One for all games: each instance holds a library for good."""
  return TextworldEngine(generate_game(EASY, 'train', 0))


def nonsense(rng: random.Random, step: Step) -> str:
  """A command that the game most likely does not understand."""
  known = rng.choice(step.admissible)
  spoilt = rng.randrange(len(known))
  return rng.choice((
    rng.choice(NONSENSE),
    known.upper(),
    known[:spoilt] + known[spoilt + 1 :],
    known.replace(' ', '  '),
    known.replace('1', '2'),
    f'{known} {known}',
    f' \t{known}\n',  # this one it does understand
  ))  # fmt: skip


def favoured(rng: random.Random, step: Step) -> str:
  """An admissible command; what handles things more often than a walk."""
  handling = [x for x in step.admissible if not x.startswith('go to')]
  return rng.choice(handling if rng.random() < 0.6 else step.admissible)


def assert_alike(game: Game, seed: int, steps: int) -> int:
  """Plays `steps` each of admissible, nonsense and expert commands in both.

  Returns: the number of steps compared.
  """
  rng = random.Random(seed)
  ours, reference = Engine(game), reference_engine()
  reference.load(game)
  step = ours.reset()
  assert step == reference.reset(), game.name
  played = 0
  for draw in [favoured, nonsense] * steps:
    if not step.terminated:
      step = assert_same(ours, reference, draw(rng, step))
      played += 1
  # The expert takes over where chance has led, or starts anew.
  if step.terminated:
    step = ours.reset()
    assert step == reference.reset(), game.name
  expert = Expert(ours, rng, explore=0.3)
  for _ in range(steps):
    if not step.terminated:
      step = assert_same(ours, reference, expert.act())
      played += 1
  return played


def released(choose: Callable[[str], bool]) -> Iterator[Game]:
  """Released games, read straight from the archive in its order."""
  with tarfile.open(alfworld_data.archive(), 'r|xz') as tar:
    for member in tar:
      if member.name.endswith('game.tw-pddl') and choose(member.name):
        content = json.load(tar.extractfile(member))
        yield Game(
          name=member.name,
          task_type=member.name.split('/')[-3].split('-')[0],
          domain=content['pddl_domain'],
          grammar=content['grammar'],
          problem=content['pddl_problem'],
          walkthrough=tuple(content['walkthrough']),
        )


@pytest.fixture(scope='module')
def valid_seen() -> list[Game]:
  """All 140 games of the split."""
  games = list(released(lambda name: 'valid_seen/' in name))
  return sorted(games, key=lambda game: game.name)


@pytest.fixture(scope='module')
def generated() -> list[Game]:
  """One game of every task type."""
  alfworld_data.need_package('alfworld')
  return [generate_game(EASY, 'train', i) for i in range(6)]


def test_generated_games_equal_the_reference(generated):
  alfworld_data.need_package('textworld')
  for i, game in enumerate(generated[:3]):
    assert_alike(game, seed=i, steps=8)


def test_released_games_equal_the_reference(valid_seen):
  alfworld_data.need_package('textworld', 'alfworld')
  for i, kind in enumerate(TASK_TYPES[3:]):
    game = next(x for x in valid_seen[i:] if x.task_type == kind)
    assert_alike(game, seed=i, steps=6)


@pytest.mark.slow
@pytest.mark.parametrize('shard', range(SHARDS))
def test_many_generated_games_equal_the_reference(shard):
  alfworld_data.need_package('textworld', 'alfworld')
  for index in range(shard, 204, SHARDS):
    # The type goes with index % 6: all types occur in all of the others.
    spec, split = (EASY, FULL)[index // 6 % 2], SPLITS[index // 12 % 3]
    game = generate_game(spec, split, index)
    assert_alike(game, seed=index, steps=30)


@pytest.fixture(scope='module')
def many_released() -> list[Game]:
  """Up to 18 games of every split and task type."""
  names: list[str] = []
  list(released(lambda name: bool(names.append(name))))  # only to list them
  chosen: set[str] = set()
  for split, kind in itertools.product(('train', 'valid_seen'), TASK_TYPES):
    some = sorted(x for x in names if f'{split}/{kind}-' in x)
    chosen.update(random.Random(0).sample(some, min(len(some), 18)))
  return list(released(chosen.__contains__))


@pytest.mark.slow
@pytest.mark.parametrize('shard', range(SHARDS))
def test_many_released_games_equal_the_reference(many_released, shard):
  alfworld_data.need_package('textworld', 'alfworld')
  assert len(many_released) >= 200
  assert {game.task_type for game in many_released} == set(TASK_TYPES)
  for index in range(shard, len(many_released), SHARDS):
    assert_alike(many_released[index], seed=index, steps=30)


def test_every_stored_walkthrough_wins(valid_seen):
  assert len(valid_seen) == 140
  for game in valid_seen:
    engine = Engine(game)
    step = engine.reset()
    for command in game.walkthrough:
      assert not step.terminated, game.name
      assert command in step.admissible, game.name
      step = engine.step(command)
    assert (step.won, step.terminated, step.reward) == (True, True, 1.0)
    with pytest.raises(ResetNeeded, match='reset'):
      engine.step('look')


def test_the_fast_engine_needs_no_import_of_the_package():
  alfworld_data.need_package('alfworld')
  code = (
    'import sys\n'
    "sys.modules['textworld'] = None\n"  # an import of it fails
    'from envs import registry\n'
    'from envs.base import Task\n'
    "world = registry.make_world('alfworld', {})\n"
    "task, env = Task('train', 0), world.make_env()\n"
    'env.reset(task)\n'
    'for command in world.game(task).walkthrough:\n'
    '  step = env.step(command)\n'
    'assert step.won and world.demonstrate(\n'
    '  task, seed=0, explore=1.0, noise=0.0)\n'
    "assert not {'alfworld', 'numpy', 'jax'} & sys.modules.keys()\n"
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_a_missing_reference_engine_names_its_cure(monkeypatch):
  monkeypatch.setitem(sys.modules, 'textworld', None)  # makes imports fail
  with pytest.raises(EnvError, match='pip install alfworld.*engine=fast'):
    TextworldEngine(Game('a game', TASK_TYPES[0], '', '', ''))


def test_step_needs_reset(generated):
  with pytest.raises(ResetNeeded, match='reset'):
    Engine(generated[0]).step('look')


def test_equal_commands_give_equal_episodes(generated):
  for game in generated:
    one, two = Engine(game), Engine(game)
    two.reset()
    two.step('inventory')  # an earlier episode leaves no trace
    assert one.reset() == two.reset()
    rng = random.Random(0)
    step = one.reset()
    for _ in range(50):
      if step.terminated:
        break
      command = favoured(rng, step)
      step = one.step(command)
      assert step == two.step(command)
      assert list(step.admissible) == sorted(set(step.admissible))


def test_copies_are_independent(generated):
  rng = random.Random(0)
  for game in generated:
    engine, step = Engine(game), Engine(game).reset()
    engine.reset()
    history: list[str] = []
    for _ in range(20):
      twin, other = engine.copy(), step
      for _ in range(10):
        if not other.terminated:
          other = twin.step(favoured(rng, other))
      if step.terminated:
        break
      history.append(favoured(rng, step))
      step = engine.step(history[-1])
    replayed = Engine(game)
    assert replayed.reset()
    assert [replayed.step(x) for x in history][-1] == step


def test_planner_view_follows_the_game(generated):
  game = generated[0]  # pick and place
  engine = Engine(game)
  engine.reset()
  taken = None
  for command in game.walkthrough:
    words = command.split()
    engine.step(command)
    if words[0] == 'go':
      assert engine.place[' '.join(words[2:])] == engine.location
    elif words[0] == 'open':
      assert engine.fact('opened', ' '.join(words[1:]))
    elif words[0] == 'take':
      taken = ' '.join(words[1:3])
      assert engine.held == (taken,)
      assert taken not in engine.contents(' '.join(words[4:]))
  target = ' '.join(words[4:])
  assert engine.held == ()
  assert engine.containers(taken) == (target,)
  assert taken in engine.contents(target)
  assert engine.accepts(target, taken)
  assert ('objecttype', '?o', engine.kind[taken]) in engine.goal[0].atoms
  assert engine.won
  assert engine.id_of[taken].startswith(words[1] + '_bar_')


def changed(game: Game, field: str, old: str, new: str) -> Game:
  text = getattr(game, field)
  assert old in text, f'{field} has no {old!r}'
  return dataclasses.replace(game, **{field: text.replace(old, new)})


@pytest.mark.parametrize(('field', 'old', 'new', 'named'), [
  ('domain', '(isHot ?o)', '(isClean ?o)', 'heatobject'),
  ('domain', '(holds ?a ?ko)', '', 'sliceobject'),
  ('domain', '?l - location, ?r', '?l - location ?r', 'examineobject'),
  ('domain', '(:action help', '(:action sing', 'sing'),
  ('domain', '(:action help', '(:durative-action help', ':durative-action'),
  ('domain', '  otype', '  otype apple - object', 'apple'),
  ('domain', '(holdsAny ?a - agent)', '(idle ?a - agent)', 'holdsany'),
  ('grammar', 'openable(r:receptacle)', 'checked(r:receptacle)', 'checked'),
  ('grammar', 'ishot(o:object)', 'ishot(o)', 'ishot'),
  ('grammar', 'ishot(o:object)', 'not_ishot(o:object)', 'not_ishot'),
  ('grammar', 'open {r}', 'open {r.desc}', 'r.desc'),
  ('grammar', 'open {r}', '{#song#}', 'song'),
  ('grammar', 'action look', 'action peek', 'look'),
  ('grammar', '"look"', '"look from {l.name}"', 'look from'),
  ('problem', '(:goal', '(:metric minimize (total-cost)) (:goal', ':metric'),
  ('problem', '(inReceptacle ?o ?r)', '(not (inReceptacle ?o ?r))', '(not'),
  ('problem', '(exists (?r', '(forall (?r', '(forall'),
  ('problem', '(:init', '(:init (= (total-cost) 0)', ':init'),
])  # fmt: skip
def test_what_is_not_understood_is_refused(generated, field, old, new, named):
  with pytest.raises(UnsupportedDomain) as caught:
    Engine(changed(generated[0], field, old, new))
  for words in (named, 'engine=textworld', generated[0].name):
    assert words in str(caught.value)


@pytest.mark.parametrize(('field', 'old', 'new'), [
  ('problem', '(:init', ''),
  ('problem', '(:goal', '(:gaol'),
  ('problem', '(pickupable ', '(pickupable nothing_bar_1 '),
  ('problem', '(openable ', '(opens '),
  ('domain', '(define', '((define'),
  ('domain', ':effect', ':affect'),
  ('grammar', '"rhs"', 'rhs'),
  ('grammar', '"""', '"'),
])  # fmt: skip
def test_a_damaged_game_says_so(generated, field, old, new):
  with pytest.raises(GameError, match='mend|engine=textworld') as caught:
    Engine(changed(generated[0], field, old, new))
  assert generated[0].name in str(caught.value)


@pytest.mark.parametrize('field', ['domain', 'grammar', 'problem'])
def test_a_game_cut_off_anywhere_is_a_game_error(generated, field):
  text = getattr(generated[0], field)
  for end in range(0, len(text.rstrip()) - 2, len(text) // 40):
    with pytest.raises(GameError):
      Engine(dataclasses.replace(generated[0], **{field: text[:end]}))


def test_layout_comments_and_case_do_not_matter(generated):
  game = generated[0]
  same = dataclasses.replace(
    game,
    domain=game.domain.upper().replace(')\n', ' ) ; a (comment\n\t'),
    problem=game.problem.replace('(openable', '; comment (\n(OPENABLE '),
    grammar='# comment\n\n' + game.grammar,
  )
  one, two = Engine(game), Engine(same)
  assert one.reset() == two.reset()
  for command in game.walkthrough:
    assert one.step(command) == two.step(command)


def test_texts_come_from_the_game(generated):
  game = changed(generated[0], 'grammar', 'You arrive at', 'Here is')
  game = changed(game, 'grammar', 'Your task is to', 'Please')
  game = changed(game, 'grammar', '"inventory"', '"pockets"')
  engine = Engine(game)
  step = engine.reset()
  assert 'Please: ' in step.observation
  assert 'Your task' not in step.observation
  assert 'pockets' in step.admissible
  assert engine.step('inventory').observation == NOTHING_HAPPENS
  assert engine.step('pockets').observation == 'You are not carrying anything.'
  walk = next(x for x in step.admissible if x.startswith('go to'))
  assert engine.step(walk).observation.startswith('Here is ')
