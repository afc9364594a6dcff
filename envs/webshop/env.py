"""WebShop as a world: products from files or a seed, goals to shop for."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from envs.agent import Template
from envs.base import BadOptions, ResetNeeded, Step, Task, UnknownTask
from envs.webshop.prompts import TEMPLATES
from envs.world import Demonstrated

if TYPE_CHECKING:  # numpy is loaded with the shop: other worlds do without
  from envs.webshop.session import Session
  from envs.webshop.shop import Packed, Shop

DATA = ('generated', 'files')
REWARDS = ('webshop', 'corrected')
NUM_TEST = 500  # the first goals of the shuffle; the others are for training
QUERY = 'search[<your query>]'  # stands for every search


class WebShop:
  """Tasks are goals: the index-th of a split of one fixed shuffle."""

  templates: Mapping[str, Template] = TEMPLATES

  def __init__(
    self,
    data: str = 'generated',
    products: str = '',
    attributes: str = '',
    human: str = '',
    num_products: int = 300,
    skip_duplicates: bool = False,
    catalog_seed: int = 0,
    goal_seed: int = 0,
    max_turns: int = 15,
    reward: str = 'webshop',
    nouns: str = 'auto',
    cache: str = '',
  ):
    """Options of `env.webshop` in a config.

    Args:
      data: 'generated', or 'files' for WebShop's own.
      products: path of `items_shuffle*.json`.
      attributes: path of `items_ins_v2*.json`.
      human: path of `items_human_ins.json`; '' takes the synthetic goals.
      num_products: how many to generate, or to read at most; 0 reads all.
      skip_duplicates: whether a second entry of a product is left out and not
        an error.
      catalog_seed: of generated products, and of the prices and bounds drawn.
      goal_seed: of the shuffle.
      max_turns: step limit of an episode.
      reward: 'webshop', with the original's quirk, or 'corrected'.
      nouns: the tagger: 'spacy', 'rules', or 'auto' for spaCy where its
        model is installed.
      cache: a folder that keeps the packed catalogue for all processes; ''
        packs it in each of them, a second per thousand products.

    Raises:
      BadOptions: an option does not have one of these values.
    """
    for name, choice, choices in (
      ('data', data, DATA),
      ('reward', reward, REWARDS),
      ('nouns', nouns, ('auto', 'spacy', 'rules')),
    ):
      if choice not in choices:
        raise BadOptions(f'{name} is {choice!r}; expected one of {choices}.')
    for name, value, least in (
      ('max_turns', max_turns, 1),
      ('num_products', num_products, 1 if data == 'generated' else 0),
    ):
      if not isinstance(value, int) or value < least:
        raise BadOptions(f'{name} is {value!r}; expected {least} or more.')
    if data == 'files' and not (products and attributes):
      raise BadOptions(
        f"data is 'files' with products={products!r} and "
        f'attributes={attributes!r}; expected the paths of both files.'
      )
    self._sources = (
      [Path(path) for path in (products, attributes, human) if path]
      if data == 'files'
      else []
    )
    self._num_products, self._skip_duplicates = num_products, skip_duplicates
    self._catalog_seed, self._goal_seed = catalog_seed, goal_seed
    self._human = bool(human) and data == 'files'
    self._max_turns, self._reward, self._nouns = max_turns, reward, nouns
    self._cache = cache

  @functools.cached_property
  def shop(self) -> Shop:
    """The shop; made when it is first asked for."""
    from envs.webshop.nouns import make_nouns
    from envs.webshop.reward import OPTION_HITS
    from envs.webshop.shop import Shop

    nouns, hits = make_nouns(self._nouns), OPTION_HITS[self._reward]
    shop = Shop(self._packed(), nouns, hits, self._human)
    if shop.num_goals <= NUM_TEST:
      raise BadOptions(
        f'the catalogue has {shop.num_goals} goals; expected more than the '
        f'{NUM_TEST} that are kept for tests. Raise num_products.'
      )
    return shop

  @property
  def max_turns(self) -> int:
    return self._max_turns

  def make_env(self) -> WebShopEnv:
    return WebShopEnv(self)

  def num_tasks(self, split: str) -> int:
    return len(self._places(split))

  def kind(self, task: Task) -> str:
    return self.shop.goal(self.place(task)).category

  def demonstrate(
    self, task: Task, *, seed: int, explore: float, noise: float
  ) -> list[Demonstrated]:
    """There is no expert yet."""
    return []

  def place(self, task: Task) -> int:
    """Returns where a task's goal is in the shuffle; raises UnknownTask."""
    places = self._places(task.split)
    if not 0 <= task.index < len(places):
      raise UnknownTask(
        f'{task.split!r} has no goal {task.index}: expected an index from 0 to '
        f'{len(places) - 1}.'
      )
    return places[task.index]

  def _places(self, split: str) -> range:
    splits = {
      'test': range(NUM_TEST),
      'train': range(NUM_TEST, self.shop.num_goals),
    }
    if split not in splits:
      raise UnknownTask(f'no split {split!r}: expected one of {list(splits)}.')
    return splits[split]

  def _packed(self) -> Packed:
    from envs.webshop import store

    if not self._cache:
      return self._pack()
    options = {
      'num_products': self._num_products,
      'skip_duplicates': self._skip_duplicates,
      'catalog_seed': self._catalog_seed,
      'goal_seed': self._goal_seed,
      'human': self._human,
    }
    key = store.content_key(self._sources, options)
    return store.open_or_build(Path(self._cache), key, self._pack)

  def _pack(self) -> Packed:
    from envs.webshop import catalog, generate, shop

    if self._sources:
      products = catalog.read_products(
        *self._sources,
        limit=self._num_products or None,
        skip_duplicates=self._skip_duplicates,
      )
    else:
      products = generate.generate_products(
        self._num_products, self._catalog_seed
      )
    draw = shop.draw_for(self._catalog_seed, self._human)
    return shop.pack(products, draw, human=self._human, seed=self._goal_seed)


class WebShopEnv:
  """One episode at a time: a session and the step limit."""

  def __init__(self, world: WebShop):
    self._world = world
    self._session: Session | None = None  # None: no episode is running
    self._turns = 0

  def reset(self, task: Task) -> Step:
    from envs.webshop import session

    self._session = None  # an unknown task ends the old episode too
    goal = self._world.shop.goal(self._world.place(task))
    self._session, self._turns = session.start(goal), 0
    return _step(self._session)

  def step(self, action: str) -> Step:
    from envs.webshop import session

    if self._session is None:
      raise ResetNeeded('no episode is running: call reset(task) first.')
    self._session = session.act(self._world.shop, self._session, action)
    self._turns += 1
    step = _step(self._session)
    if not step.terminated and self._turns >= self._world.max_turns:
      step = dataclasses.replace(step, truncated=True)
    if step.done:
      self._session = None
    return step


def _step(session: Session) -> Step:
  """What a session shows; its parts name what a purchase is made of."""
  page, reward = session.page, session.reward
  if reward is not None:
    return Step(
      page.observation,
      reward=float(reward.total),
      terminated=True,
      won=reward.total == 1,
      parts={
        name: float(value)
        for name, value in vars(reward).items()
        if value is not None
      },
    )
  clicks = {f'click[{name}]' for name in page.clickables if name != 'search'}
  return Step(
    page.observation,
    admissible=tuple(sorted(clicks | ({QUERY} if page.has_search else set()))),
  )
