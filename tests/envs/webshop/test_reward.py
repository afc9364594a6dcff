"""The reward's parts, the likeness of texts, and the taggers."""

import random

import pytest

from envs.base import BadOptions
from envs.webshop import generate, goals, nouns, reward
from envs.webshop.fuzzy import token_set_ratio


def common(a, b):
  """Longest common subsequence by the textbook's table."""
  rows = [[0] * (len(b) + 1)]
  for x in a:
    row = [0]
    for j, y in enumerate(b):
      row.append(rows[-1][j] + 1 if x == y else max(rows[-1][j + 1], row[-1]))
    rows.append(row)
  return rows[-1][-1]


def test_likeness_of_single_words_is_that_of_subsequences():
  rng = random.Random(0)
  for _ in range(300):
    a, b = (
      ''.join(rng.choices('abcé日', k=rng.randint(1, 90))).replace('é', 'd')
      for _ in range(2)
    )
    expected = 100 if a == b else round(200 * common(a, b) / (len(a) + len(b)))
    assert token_set_ratio(a, b) == token_set_ratio(b, a) == expected


@pytest.mark.parametrize(
  ('a', 'b', 'expected'),
  [
    ('machine wash', 'Wash, machine!', 100),
    ('red', "('color', 'red')", 100),
    ('red', '', 0),
    ('--', 'red', 0),
    ('café', 'caf', 100),  # letters of Latin 1 are dropped
    ('long sleeve', 'long sleeves', 96),
  ],
)
def test_likeness(a, b, expected):
  assert token_set_ratio(a, b) == expected


@pytest.fixture
def product():
  return next(generate.generate_products(1, seed=0))._replace(
    title='Linen Shirt, Relaxed Fit',
    description='Made in spring.',
    bullets=('Long sleeve', 'Button cuffs'),
    attributes=('relaxed fit',),
    query='linen shirts',
    product_category='Clothing › Tops › Linen Shirts',
    options={'color': ('sky blue', 'red'), 'size': ('small',)},
    instruction='Find me relaxed fit linen shirts',
    instruction_attributes=('relaxed fit', 'long sleeve'),
  )


def judge(product, goal, price=20.0, rule='webshop', **chosen):
  hits = reward.OPTION_HITS[rule]
  return reward.judge(product, goal, price, chosen, nouns.rule_nouns, hits)


def test_parts(product):
  goal = goals.make_goal(product, 1, [30.0], human=False)
  assert dict(goal.options) == {'color': 'red', 'size': 'small'}
  full = judge(product, goal, color='red', size='small')
  assert full == reward.Reward(1.0, 1.0, 1.0, True, 1.0, True, True, 1.0)
  assert judge(product, goal, price=31.0, size='small').total == 3 / 5
  other = product._replace(attributes=(), bullets=('',))
  part = judge(other, goal, color='red', size='small')
  assert part.attributes == 1 / 2
  assert part.total == 4 / 5


def test_quirk_of_colours_and_its_correction(product):
  goal = goals.make_goal(product, 0, [30.0], human=False)
  assert dict(goal.options)['color'] == 'sky blue'
  bought = {'color': 'sky blue', 'size': 'small'}
  assert judge(product, goal, **bought).total == 1  # 'blue' is a word of it
  joined = goal._replace(options=(('color', 'skyblue2'),))
  assert judge(product, joined, color='skyblue2').options == 0
  assert judge(product, joined, rule='corrected', color='skyblue2').options == 1
  assert judge(product, joined, rule='corrected', color='red').options == 0


def test_goal_without_options_has_no_option_part(product):
  goal = goals.make_goal(product._replace(options={}), 0, [30.0], human=False)
  assert judge(product, goal).options is None
  assert judge(product, goal).total == 1


@pytest.mark.parametrize(
  ('same_kind', 'title', 'factor'),
  [(True, 0.0, 0), (True, 0.05, 0.1), (True, 0.15, 1), (False, 0.15, 0.5),
   (False, 0.21, 1), (False, 0.2, 0.5)],
)  # fmt: skip
def test_type_factor(same_kind, title, factor):
  assert reward.type_factor(same_kind, title) == factor


def test_title_without_nouns_scores_a_fifth():
  assert reward.title_score('x', '12 34', nouns.rule_nouns) == 0.2


def test_taggers():
  text = 'The Adjustable Desk Lamp, 12 W, quickly'
  assert nouns.rule_nouns(text) == ['desk', 'lamp', 'w']
  assert nouns.make_nouns('rules') is nouns.rule_nouns
  with pytest.raises(BadOptions, match='magic'):
    nouns.make_nouns('magic')
