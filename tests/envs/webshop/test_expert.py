"""The shop's expert, what it may search for, and the small family's words."""

import json
import random
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from envs import checker
from envs.agent import AgentLayer
from envs.base import ResetNeeded, Task
from envs.webshop import session
from envs.webshop.env import QUERY, WebShop
from envs.webshop.expert import Expert, picks
from envs.webshop.queries import queries
from experiments.configs import base, webshop_tiny
from hgpo_jax.model import tokenizer as tokenizer_lib
from hgpo_jax.train import cloning, loop
from tests import webshop_data

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope='module')
def config():
  return webshop_tiny.get_config()


@pytest.fixture(scope='module')
def world(config):
  return WebShop(**config.env.webshop.to_dict())


@pytest.fixture(scope='module')
def full():
  return WebShop(nouns='rules')


def tasks(number, split='train'):
  return [Task(split, i) for i in range(number)]


def demonstrations(world, number, *, seed=0, explore=0.0, noise=0.0):
  return [
    world.demonstrate(task, seed=seed, explore=explore, noise=noise)
    for task in tasks(number)
  ]


# ---- queries ----


def test_queries_are_the_words_and_the_clauses_without_the_price():
  text = (
    "Find me slim fit men's shirts with short sleeve with color: red, and "
    'size: 3x [tall], and price lower than 50.00 dollars'
  )
  assert queries(text) == (
    "slim fit men's shirts short sleeve color: red size: 3x tall",
    "slim fit men's shirts",
    'short sleeve',
    'color: red',
    'size: 3x tall',
  )


@pytest.mark.parametrize('text', ['', ' ', '[]', 'one', 'a, a', 'Find me\nx'])
def test_queries_of_odd_instructions_can_all_be_played(text):
  for query in queries(text):
    assert '\n' not in query
    assert query == query.strip()
  assert len(set(queries(text))) == len(queries(text)) > 0


def test_offered_searches_stand_for_the_free_one(world, full):
  env = world.make_env()
  step = env.reset(Task('test', 0))
  goal = env.session.goal
  assert set(step.admissible) == {
    f'search[{query}]' for query in queries(goal.instruction)
  }
  assert 'Page 1' in env.step('search[anything else]').observation
  assert full.make_env().reset(Task('test', 0)).admissible == (QUERY,)


# ---- the expert ----


def test_the_expert_buys_what_is_worth_all(world, full):
  for shop in (world, full):
    for split in ('train', 'test'):
      for task in tasks(60, split):
        turns = shop.demonstrate(task, seed=1, explore=0.0, noise=0.0)
        assert turns, task
        assert all(turn.action == turn.advice for turn in turns)
        assert turns[-1].action == 'click[buy now]'


def test_the_expert_plays_what_is_offered(world):
  for turns in demonstrations(world, 60, explore=1.0, noise=0.2):
    for turn in turns:
      assert {turn.action, turn.advice} <= set(turn.step.admissible)


def test_demonstrations_depend_on_the_seed_alone(world):
  one, two, other = (
    demonstrations(world, 30, seed=seed, explore=0.5, noise=0.3)
    for seed in (0, 0, 1)
  )
  assert one == two != other
  assert any(x.action != x.advice for turns in one for x in turns)


def test_noise_is_recovered_from(full):
  played = demonstrations(full, 60, noise=0.2)
  assert statistics.mean(map(bool, played)) > 0.9


def test_who_explores_looks_at_products_that_lack_an_option(full):
  lengths = [
    sum(map(len, demonstrations(full, 80, explore=explore)))
    for explore in (0.0, 1.0)
  ]
  assert lengths[0] < lengths[1]
  left = [
    turns[i - 1].action
    for turns in demonstrations(full, 80, explore=1.0)
    for i, turn in enumerate(turns)
    if turn.action == 'click[< prev]'
  ]
  assert left
  assert all(action.startswith('click[g0') for action in left)


def test_the_expert_goes_on_from_wherever_it_is(world):
  for number, task in enumerate(tasks(40)):
    rng = random.Random(number)
    shop, goal = world.shop, world.shop.goal(world.place(task))
    expert, state = Expert(shop, goal, rng), session.start(goal)
    for _ in range(12):
      moves = {'search[side tables]', 'search[hair oils]'}
      moves |= {f'click[{name}]' for name in state.page.clickables}
      move = rng.choice(sorted(moves - {'click[buy now]'}))
      state = session.act(shop, state, move)
    for _ in range(30):
      if state.kind != 'done':
        state = session.act(shop, state, expert.act(state))
    # An option that was chosen by chance stays chosen, which does not count.
    assert state.reward is not None, task
    assert state.reward.total == 1, task


def test_options_are_picked_exactly_before_nearly(world):
  goal = world.shop.goal(world.place(Task('train', 0)))
  product = world.shop.product(0)._replace(
    options={'color': ('dark red', 'red'), 'size': ('10 ft',)}
  )
  for options, found in (
    ((('color', 'red'), ('size', '10 ft')), ['red', '10 ft']),
    (('red dark',), ['dark red']),
    (('blue',), []),
  ):
    assert picks(product, goal._replace(options=options)) == found
  assert picks(product._replace(options={}), goal) == []


def test_the_expert_on_the_small_set():
  """All but the goals that the quirk of WebShop's reward puts out of reach."""
  for option_hits, least in (('webshop', 0.85), ('corrected', 1.0)):
    shop = webshop_data.recorded_shop(option_hits)
    found = []
    for place in range(60):
      goal = shop.goal(place)
      state = session.start(goal)
      expert = Expert(shop, goal, random.Random(0))
      for _ in range(15):
        if state.kind != 'done':
          state = session.act(shop, state, expert.act(state))
      found.append(state.reward.total if state.reward else 0.0)
    assert statistics.mean(x == 1 for x in found) >= least
    assert statistics.mean(found) > 0.98


def test_a_session_is_seen_while_an_episode_runs(world):
  env = world.make_env()
  with pytest.raises(ResetNeeded):
    env.session  # noqa: B018
  env.reset(Task('train', 0))
  assert env.session.kind == 'start'


# ---- the small family and its words ----


def test_contract_of_the_small_family(world):
  report = checker.check_env(world.make_env, tasks(6), max_steps=20)
  assert report.ended == 6


def test_pages_are_as_short_as_asked_for(world):
  env = world.make_env()
  env.reset(Task('train', 0))
  page = env.step('search[side tables]').observation
  assert page.count('ITEM ') == 4
  assert env.step('click[next >]').observation.count('ITEM ') == 4


def test_compact_words(world):
  agent = AgentLayer(world.templates['compact'], depth=2, constrained=True)
  turns = world.demonstrate(Task('train', 0), seed=0, explore=0.0, noise=0.0)
  messages = [message for message, _, _ in cloning.examples(turns, agent)]
  asked = 'hiking trousers\ntwo year warranty\nmade by hand\ncolor: navy\n'
  asked += 'size: medium\nbelow 60'
  assert messages[0] == asked
  search, click = (turn.action for turn in turns[:2])
  assert messages[1].startswith(f'{search}\n{asked}\npage 1\nitem ')
  assert messages[2].startswith(f'{search}\n{click}\n{asked}\ncolor\n')
  assert 'costs 30' in messages[1]
  assert '[SEP]' not in ''.join(messages)
  assert click[len('click[') : -1] in messages[1]  # the very same id


def test_everything_fits_the_shapes_of_the_config(world, config):
  agent = AgentLayer(world.templates['compact'], depth=2, constrained=True)
  found = [
    example
    for turns in demonstrations(world, 150, explore=1.0, noise=0.3)
    if turns
    for example in cloning.examples(turns, agent)
  ]
  tokenizer = tokenizer_lib.build(
    cloning.texts(found),
    vocab_size=config.policy.vocab_size,
    chat_template=tokenizer_lib.CHAT_TEMPLATES[config.policy.chat],
  )
  chats = [[{'role': 'user', 'content': message}] for message, _, _ in found]
  prompts = tokenizer_lib.encode_chats(tokenizer, chats)
  assert max(map(len, prompts)) <= max(config.sampling.prompt_buckets)
  assert statistics.mean(map(len, prompts)) < 45
  offered = {text for _, replies, _ in found for text in replies}
  replies = tokenizer_lib.encode_replies(tokenizer, sorted(offered))
  assert max(map(len, replies)) <= config.sampling.max_reply
  widest = max(len(replies) for _, replies, _ in found)
  assert widest <= max(config.sampling.choice_buckets)


def test_the_config_holds_the_fields_of_base(config):
  fields = base.get_config().to_dict()
  shapes = [
    {k: sorted(v) if isinstance(v, dict) else 0 for k, v in c.items()}
    for c in (fields, config.to_dict())
  ]
  assert shapes[0] == shapes[1]
  assert set(fields['env']['webshop']) == set(config.env.webshop)


@pytest.mark.slow
def test_two_iterations_of_the_config(config, tmp_path):
  c = config.copy_and_resolve_references().unlock()
  c.iterations, c.warmstart.games, c.eval.games = 2, 60, 8
  folder = tmp_path / 'run'
  summary = loop.train(base.freeze(c), folder)
  result = summary['final']['test']['0.4']
  assert result['games'] == 8
  assert result['success'] <= result['task_score'] <= 1
  for line in (folder / 'metrics.jsonl').read_text().splitlines():
    record = json.loads(line)
    for part in ('total', 'attributes', 'options', 'price', 'type_factor'):
      assert 0 <= record[f'rollout/reward_{part}'] <= 1
    assert record['rollout/task_score'] <= record['rollout/reward_total']
  command = [
    sys.executable, '-m', 'experiments.evaluate', '--split=test',
    f'--checkpoint={folder}', '--games=4', '--max_turns=6',
  ]  # fmt: skip
  subprocess.run(command, cwd=ROOT, check=True)
  (path,) = folder.glob('evaluation_test_generated_*.json')
  assert path.stem.endswith('_0.4_123_2_games-4_turns-6')
  played = json.loads(path.read_text())
  assert played['turns'] <= 6
  assert 'engine' not in played
  refused = subprocess.run(
    [*command, '--data=files'], cwd=ROOT, capture_output=True, text=True
  )
  assert '--data' in refused.stderr
  assert 'ALFWorld' in refused.stderr
