"""WebShop as a world: contract, splits, caches, servers, odd actions."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest

from envs import checker, registry
from envs.agent import load_template, make_template, render, task_text
from envs.base import BadOptions, GameError, Task, UnknownTask
from envs.serving import local
from envs.webshop import generate, session, shop, store
from envs.webshop.env import NUM_TEST, QUERY, WebShop
from envs.webshop.nouns import rule_nouns
from envs.webshop.prompts import COMPACT, PAPER
from envs.webshop.reward import webshop_option_hits

TASKS = [Task(split, i) for split in ('train', 'test') for i in range(6)]


@pytest.fixture(scope='module')
def world():
  return WebShop(nouns='rules')


def buy(env, task, world):
  """Plays a task's own product with the options that are asked for."""
  goal = world.shop.goal(world.place(task))
  env.reset(task)
  env.step(f'search[{goal.title}]')
  env.step(f'click[{goal.asin.lower()}]')
  for _, value in goal.options:
    env.step(f'click[{value}]')
  return env.step('click[buy now]')


def test_contract(world):
  report = checker.check_env(world.make_env, TASKS, max_steps=20)
  assert report.episodes == len(TASKS)
  assert report.ended == len(TASKS)


def test_splits_share_no_goal(world):
  assert world.num_tasks('test') == NUM_TEST
  assert world.num_tasks('train') == world.shop.num_goals - NUM_TEST
  places = [world.place(Task('test', 499)), world.place(Task('train', 0))]
  assert places == [499, 500]
  with pytest.raises(UnknownTask, match='valid'):
    world.num_tasks('valid')


def test_buying_what_is_asked_for_wins(world):
  env = world.make_env()
  last = [buy(env, task, world) for task in TASKS]
  assert all(step.won and step.reward == 1 for step in last)
  assert last[0].parts['attributes'] == last[0].parts['type_factor'] == 1
  assert {world.kind(task) for task in TASKS} <= {
    'fashion', 'garden', 'electronics', 'beauty', 'grocery',
  }  # fmt: skip


def test_limit_of_turns_truncates():
  env = WebShop(max_turns=2, nouns='rules').make_env()
  env.reset(TASKS[0])
  assert not env.step('nothing').done
  assert env.step('nothing').truncated


def test_other_actions_leave_the_page(world):
  env = world.make_env()
  first = env.reset(TASKS[0])
  for action in ('', 'search[]', 'click[buy now]', 'Search[x]', '\n'):
    assert env.step(action) == first


def test_shortcuts_of_searches(world):
  env = world.make_env()
  env.reset(TASKS[0])
  assert '(Total results: 50)' in env.step('search[<r>]').observation
  tables = env.step('search[<q> side tables]').observation
  assert 'Side Table' in tables
  assert 'Mug' not in tables
  assert 'Side Table' in env.step('search[<c> garden]').observation + tables
  for query in ('<c>', '<q>', '<c> nothing', '<a> x'):
    assert 'Page 1' in env.step(f'search[{query}]').observation


def test_fuzzed_actions_never_raise(world):
  rng = random.Random(0)
  env = WebShop(max_turns=60, nouns='rules').make_env()
  odd = ['\ud800', '\x00', '🍎', '[', ']', '&amp;', '<b>', '%s', 'é' * 99]
  for number in range(40):
    step = env.reset(Task('train', number))
    while not step.done:
      text = ''.join(rng.choices(odd + ['a ', 'linen ', '_', '.'], k=9))
      step = env.step(
        rng.choice(
          [*step.admissible, f'search[{text}]', f'click[{text}]', text,
           f'search[{text * rng.choice((1, 300))}]', 'click[next >]']
        )
      )  # fmt: skip
      checker.check_step(step, 'a fuzzed step')


def test_long_queries_are_answered(world):
  env = world.make_env()
  env.reset(TASKS[0])
  for piece in ('linen shirt ', 'x', '_', 'é_', '👍', 'a1 b2 c3 '):
    query = piece * (10_000 // len(piece))
    assert 'Page 1' in env.step(f'search[{query}]').observation


def test_entities_and_unicode_come_through_as_they_are(tmp_path):
  raw, about = generate.generate_entry(0, seed=0)
  raw |= {'name': 'Salt &amp; <b>Pepper</b> 日本 🍎', 'full_description': ' '}
  option = [{'value': f'"{i}"&quot;'} for i in range(600)]
  raw |= {'customization_options': {'size': option}, 'asin': 'B1'}
  paths = tmp_path / 'items.json', tmp_path / 'ins.json'
  paths[0].write_text(json.dumps([raw]))
  paths[1].write_text(json.dumps({'B1': about}))
  products, attributes = map(str, paths)
  world = WebShop('files', products, attributes, num_products=0, nouns='rules')
  env = world.make_env()
  env.reset(Task('train', 0))
  assert raw['name'] in env.step('search[日本]').observation
  step = env.step('click[b1]')
  assert 'click["599"&quot;]' in step.admissible
  env.step('click["599"&quot;]')
  bought = env.step('click[buy now]').observation
  assert '"size": "\\"599\\"\\u0026quot;"' in bought


def test_links_lead_to_what_they_show():
  """Whatever an id looks like, even like a button of another page."""
  ids = ('b1', 'B2', 'Buy Now', 'ß')
  made = generate.generate_products(len(ids), seed=0)
  products = [x._replace(asin=y) for x, y in zip(made, ids, strict=True)]
  packed = shop.pack(products, shop.draw_for(0, human=False))
  ours = shop.Shop(packed, rule_nouns, webshop_option_hits, human=False)
  goal_of = {goal.asin: goal for goal in map(ours.goal, range(ours.num_goals))}
  for product in products:
    state = session.start(goal_of[product.asin])
    state = session.act(ours, state, f'search[{product.title}]')
    state = session.act(ours, state, f'click[{product.asin}]')
    assert state.kind == 'item'
    assert product.title in state.page.texts


def test_bad_options():
  for options in (
    {'data': 'x'}, {'reward': 'x'}, {'nouns': 'x'}, {'max_turns': 0},
    {'num_products': 0}, {'data': 'files'}, {'unknown': 1}, {'family': 'x'},
    {'queries': 'x'}, {'per_page': 0}, {'products': 'x'}, {'human': 'x'},
  ):  # fmt: skip
    with pytest.raises(BadOptions, match=next(iter(options))):
      registry.make_world('webshop', options)
  with pytest.raises(BadOptions, match='Raise num_products'):
    WebShop(num_products=3).num_tasks('train')
  missing = WebShop('files', products='/no/a.json', attributes='/no/b.json')
  with pytest.raises(GameError, match='/no/b.json'):
    missing.num_tasks('test')


def test_cached_shop_is_the_same_and_mapped(tmp_path, world):
  cached = WebShop(nouns='rules', cache=str(tmp_path))
  env, other = cached.make_env(), world.make_env()
  assert [buy(env, x, cached) for x in TASKS] == [
    buy(other, x, world) for x in TASKS
  ]
  rows = cached.shop.postings.rows
  assert isinstance(rows.base, np.memmap)
  assert not rows.flags.writeable


def test_cache_is_built_once_and_again_where_damaged(tmp_path):
  options = {'cache': str(tmp_path), 'nouns': 'rules'}

  def build():
    WebShop(**options).num_tasks('test')
    return {
      x: os.stat(x).st_mtime_ns for x in tmp_path.glob('*/postings.rows.npy')
    }

  first = build()
  assert len(first) == 1
  assert build() == first
  path = next(iter(first))
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  mended = build()
  assert mended.keys() == first.keys()
  assert mended != first
  (path.parent / 'manifest.json').write_text('{')
  assert build() != mended
  assert not list(tmp_path.glob('part-*'))


def test_stale_cache_is_not_opened(tmp_path):
  source = tmp_path / 'items.json'
  source.write_text('[1]')
  key = store.content_key([source], {'a': 1})
  assert key == store.content_key([source], {'a': 1})
  assert key != store.content_key([source], {'a': 2})
  source.write_text('[2]')
  assert key != store.content_key([source], {'a': 1})


def test_failed_build_leaves_nothing(tmp_path):
  def fail():
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    store.open_or_build(tmp_path, 'key', fail)
  assert [path.name for path in tmp_path.iterdir()] == ['key.lock']


def test_cache_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(GameError, match='cache'):
    WebShop(cache=str(tmp_path / 'file'), nouns='rules').num_tasks('test')


def test_served_from_other_processes(tmp_path, world):
  options = {'nouns': 'rules', 'cache': str(tmp_path)}
  with local.open_client('webshop', options, 2) as servers:
    answers = servers(dict(enumerate(TASKS)))
    env = world.make_env()
    assert answers == {i: env.reset(task) for i, task in enumerate(TASKS)}
    goal, last = env.session.goal, len(TASKS) - 1
    for action in (
      f'search[{goal.title}]', f'click[{goal.asin.lower()}]', 'click[buy now]',
    ):  # fmt: skip
      step = env.step(action)
      assert servers({last: action}) == {last: step}
  assert step.terminated
  assert step.parts['price'] == 1


def test_other_worlds_do_not_load_numpy():
  code = 'import sys, envs.registry; sys.exit("numpy" in sys.modules)'
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def test_templates(world, tmp_path):
  env = world.make_env()
  step = env.reset(TASKS[0])
  goal = world.shop.goal(world.place(TASKS[0]))
  for template in (PAPER, COMPACT):
    assert task_text(template, step.observation) == goal.instruction
  page = env.step('search[linen shirts]')
  text = render(PAPER, goal.instruction, (), page, taken=1)
  assert text.count(goal.instruction) == 1  # pages do not repeat it
  assert f"'{QUERY}'" in render(PAPER, 'x', (), step, taken=0)
  assert make_template('paper', WebShop.templates).tail_chars == 20
  path = tmp_path / 'template.json'
  path.write_text(json.dumps(vars(PAPER)))
  assert load_template(str(path)) == PAPER
