"""The shop against recordings of the real one: goals, searches, episodes."""

import collections

import numpy as np
import pytest

from envs.webshop import analyzer, search, session, shop
from hgpo_jax.types import ordered_sum
from tests import webshop_data

# Recorded name of a reward's part -> ours.
PARTS = {
  'r_type': 'type_factor', 'r_att': 'attributes', 'r_option': 'options',
  'r_price': 'price', 'query_match': 'query_match',
  'category_match': 'category_match', 'title_score': 'title_score',
}  # fmt: skip


def test_all_goals_are_equal_in_content_and_order():
  recorded = webshop_data.recorded_goals()['goals']
  ours = webshop_data.recorded_shop()
  found = [ours.goal(place) for place in range(ours.num_goals)]
  assert len(found) == len(recorded) == 6910
  counts = collections.Counter(x for goal in found for x in goal.attributes)
  for goal, expected in zip(found, recorded, strict=True):
    weights = [1 / counts[name] for name in goal.attributes]
    assert expected == {
      'asin': goal.asin,
      'category': goal.category,
      'query': goal.query,
      'name': goal.title,
      'product_category': goal.product_category,
      'instruction_text': goal.instruction,
      'attributes': list(goal.attributes),
      'price_upper': goal.price_upper,
      'goal_options': dict(goal.options),
      'weight': ordered_sum(weights) / len(weights),
    }


def test_recorded_prices_lie_in_the_ranges_that_are_read():
  prices = webshop_data.recorded_goals()['prices']
  for product in webshop_data.products():
    low, high = min(product.prices), max(product.prices)  # some run downwards
    assert low <= prices[product.asin] <= high


def test_recorded_draws_follow_the_rules():
  recorded = webshop_data.recorded_goals()
  bounds = {x['asin']: x['price_upper'] for x in recorded['goals']}
  places, shares = [], []
  for product in webshop_data.products():
    price = recorded['prices'][product.asin]
    if len(product.prices) == 2 and product.prices[0] != product.prices[1]:
      low, high = sorted(product.prices)
      shares.append((price - low) / (high - low))
    if product.asin in bounds and price < 950:
      places.append(int(bounds[product.asin] // 10 - price // 10) - 1)
  # Of four tens the larger of two is never the first.
  drawn = np.bincount(places, minlength=4) / len(places)
  np.testing.assert_allclose(drawn, [0, 1 / 6, 2 / 6, 3 / 6], atol=0.08)
  uniform = np.linspace(0, 1, len(shares))
  assert np.abs(np.sort(shares) - uniform).max() < 1.63 / len(shares) ** 0.5


def test_terms_are_those_of_the_real_analyzer():
  texts = {x.asin: shop.document(x) for x in webshop_data.products()}
  documents = list(webshop_data.lines('analyzer.jsonl'))
  assert len(documents) == 500
  for document in documents:
    assert analyzer.analyze(texts[document['id']]) == document['tokens']


def test_searches_find_the_same_products_in_the_same_order():
  products, ours = webshop_data.products(), webshop_data.recorded_shop()
  queries = list(webshop_data.lines('search.jsonl'))
  assert len(queries) == 156
  for query in queries:
    hits = search.search(ours.postings, query['q'])
    ids = [products[row].asin for row in hits.rows]
    assert ids == [asin for asin, _ in query['hits']], query['q']
    # The real ones are rounded to four places; of equals each loses 1e-6.
    scores = [score for _, score in query['hits']]
    assert hits.scores == pytest.approx(scores, abs=1e-4)


def test_all_episodes_are_equal_at_every_step():
  ours, steps = webshop_data.recorded_shop(), 0
  episodes = list(webshop_data.lines('transcripts.jsonl'))
  assert len(episodes) == 165
  for episode in episodes:
    state = session.start(ours.goal(episode['goal_idx']))
    check_page(state, episode['obs0'], episode['av0'])
    for step in episode['steps']:
      state = session.act(ours, state, step['a'])
      check_page(state, step['obs'], step['av'])
      check_reward(state, step)
      steps += 1
  assert steps == 1312


def check_page(state, observation, available):
  assert state.page.observation == observation
  assert list(state.page.clickables) == available['clickables']
  assert state.page.has_search == available['has_search_bar']


def check_reward(state, step):
  assert (state.kind == 'done') == step['done']
  assert (state.reward.total if state.reward else 0) == step['r']
  for name, value in (step['info'] or {}).items():
    if name in PARTS:
      assert getattr(state.reward, PARTS[name]) == value, name


@pytest.mark.parametrize(
  ('rule', 'unreachable'), [('webshop', 458), ('corrected', 0)]
)
def test_goals_that_their_own_product_cannot_meet(rule, unreachable):
  ours = webshop_data.recorded_shop(rule)
  rows = {x.asin: row for row, x in enumerate(webshop_data.products())}
  missed = 0
  for place in range(ours.num_goals):
    goal = ours.goal(place)
    bought = ours.judge(rows[goal.asin], dict(goal.options), goal)
    missed += bought.total < 1
  assert missed == unreachable
