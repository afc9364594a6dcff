"""WebShop as a world: products from files or a seed, goals to shop for."""

from __future__ import annotations

import dataclasses
import functools
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from envs import options
from envs.agent import Template
from envs.base import BadOptions, ResetNeeded, Step, Task, UnknownTask, pick
from envs.webshop.nouns import NOUNS, make_nouns
from envs.webshop.prompts import TEMPLATES
from envs.webshop.queries import queries as queries_of
from envs.world import Cache, DataPath, Demonstrated

if TYPE_CHECKING:  # numpy is loaded with the shop: other worlds do without
  from envs.webshop.session import Session
  from envs.webshop.shop import Packed, Shop

DATA = ('generated', 'files')
FAMILIES = ('full', 'easy')
REWARDS = ('webshop', 'corrected')
QUERIES = ('free', 'offered')
NUM_TEST = 500  # the first goals of the shuffle; the others are for training
QUERY = 'search[<your query>]'  # stands for every search


class WebShop:
  """Tasks are goals: the index-th of a split of one fixed shuffle."""

  templates: Mapping[str, Template] = TEMPLATES

  def __init__(
    self,
    data: str = 'generated',
    products: DataPath = '',
    attributes: DataPath = '',
    human: str = '',
    family: str = 'full',
    num_products: int = 300,
    skip_duplicates: bool = False,
    catalog_seed: int = 0,
    goal_seed: int = 0,
    max_turns: int = 15,
    reward: str = 'webshop',
    nouns: str = 'auto',
    per_page: int = 10,
    queries: str = 'free',
    cache: Cache = '',
  ):
    """Options of `env.webshop` in a config.

    Args:
      data: 'generated', or 'files' for WebShop's own.
      products: path of `items_shuffle*.json`.
      attributes: path of `items_ins_v2*.json`.
      human: path of `items_human_ins.json`; '' takes the synthetic goals.
      family: what is generated, 'full' or 'easy'; see `generate.Family`.
      num_products: how many to generate, or to read at most; 0 reads all.
      skip_duplicates: whether a second entry of a product is left out and not
        an error.
      catalog_seed: of generated products, and of the prices and bounds drawn.
      goal_seed: of the shuffle.
      max_turns: step limit of an episode.
      reward: 'webshop', with the original's quirk, or 'corrected'.
      nouns: the tagger: 'spacy', 'rules', or 'auto' for spaCy where its
        model is installed.
      per_page: products on a page of results; WebShop's 10.
      queries: 'free' admits searches as `search[<your query>]`; 'offered'
        lists those of `queries.queries`, for decoding that is limited to
        admissible actions. Others are understood too.
      cache: a folder that keeps the packed catalogue for all processes; ''
        packs it in each of them, under a second per thousand products.

    Raises:
      BadOptions: an option does not have one of these values.
    """
    options.one_of(DATA, data=data)
    options.one_of(FAMILIES, family=family)
    options.one_of(REWARDS, reward=reward)
    options.one_of(NOUNS, nouns=nouns)
    options.one_of(QUERIES, queries=queries)
    options.at_least(1, max_turns=max_turns, per_page=per_page)
    options.at_least(0 if data == 'files' else 1, num_products=num_products)
    files = [path for path in (products, attributes, human) if path]
    whole = bool(products and attributes)
    if (data == 'generated' and files) or (data == 'files' and not whole):
      raise BadOptions(
        f'data is {data!r} with products={products!r}, '
        f'attributes={attributes!r} and human={human!r}; expected the paths of '
        "WebShop's items_shuffle*.json and items_ins_v2*.json with 'files', "
        "and none with 'generated'."
      )
    self._sources = [Path(path) for path in files]
    self._family, self._num_products = family, num_products
    self._skip_duplicates = skip_duplicates
    self._catalog_seed, self._goal_seed = catalog_seed, goal_seed
    self._human = bool(human)
    self.max_turns, self._reward, self._nouns = max_turns, reward, nouns
    self._per_page, self._queries = per_page, queries
    self._cache = cache

  @functools.cached_property
  def shop(self) -> Shop:
    """The shop; made when it is first asked for."""
    from envs.webshop.reward import OPTION_HITS
    from envs.webshop.shop import Shop

    nouns, hits = make_nouns(self._nouns), OPTION_HITS[self._reward]
    shop = Shop(self._packed(), nouns, hits, self._human, self._per_page)
    if shop.num_goals <= NUM_TEST:
      raise BadOptions(
        f'the catalogue has {shop.num_goals} goals; expected more than the '
        f'{NUM_TEST} that are kept for tests. Raise num_products.'
      )
    return shop

  def make_env(self) -> WebShopEnv:
    """Returns a fresh environment."""
    return WebShopEnv(self)

  def num_tasks(self, split: str) -> int:
    """Returns the size of a split; raises UnknownTask without it."""
    return len(self._places(split))

  def kind(self, task: Task) -> str:
    """Returns the section of the product that is asked for."""
    return self.shop.goal(self.place(task)).category

  def demonstrate(
    self, task: Task, *, seed: int, explore: float, noise: float
  ) -> list[Demonstrated]:
    """Plays as the expert; random turns buy nothing, which would be the end."""
    from envs.webshop.expert import Expert

    rng = random.Random(f'webshop expert {seed} {task.split} {task.index}')
    goal, env = self.shop.goal(self.place(task)), self.make_env()
    expert = Expert(self.shop, goal, rng, explore)
    step, turns = env.reset(task), []
    while not step.done:
      advice = action = expert.act(env.session)
      if rng.random() < noise:
        moves = {*step.admissible, advice} - {QUERY, 'click[buy now]'}
        action = rng.choice(sorted(moves or {advice}))
      turns.append(Demonstrated(step, action, advice))
      step = env.step(action)
    return turns if step.won else []

  def searches(self, instruction: str) -> tuple[str, ...]:
    """The searches that are listed as admissible."""
    if self._queries == 'free':
      return (QUERY,)
    return tuple(f'search[{query}]' for query in queries_of(instruction))

  def place(self, task: Task) -> int:
    """Returns where a task's goal is in the shuffle; raises UnknownTask."""
    return pick(self._places(task.split), task)

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
    made_from = {
      'family': self._family,
      'num_products': self._num_products,
      'skip_duplicates': self._skip_duplicates,
      'catalog_seed': self._catalog_seed,
      'goal_seed': self._goal_seed,
      'human': self._human,
    }
    key = store.content_key(self._sources, made_from)
    return store.open_or_build(Path(self._cache), key, self._pack)

  def _pack(self) -> Packed:
    from envs.webshop import catalog, generate, shop

    if self._sources:
      print(
        f'packing {self._sources[0]}: minutes for a million products, '
        f'{"once" if self._cache else "in every process; cache keeps it"}',
        file=sys.stderr,
      )
      products = catalog.read_products(
        *self._sources,
        limit=self._num_products or None,
        skip_duplicates=self._skip_duplicates,
      )
    else:
      products = generate.generate_products(
        self._num_products,
        self._catalog_seed,
        generate.FAMILIES[self._family],
      )
    draw = shop.draw_for(self._catalog_seed, self._human)
    return shop.pack(products, draw, human=self._human, seed=self._goal_seed)


class WebShopEnv:
  """One episode at a time: a session and the step limit."""

  def __init__(self, world: WebShop):
    self._world = world
    self._session: Session | None = None  # None: no episode is running
    self._turns = 0

  @property
  def session(self) -> Session:
    """Where the shopper is; raises ResetNeeded where no episode is running."""
    if self._session is None:
      raise ResetNeeded('no episode is running: call reset(task) first.')
    return self._session

  def reset(self, task: Task) -> Step:
    """Starts the episode of `task`; raises UnknownTask if there is none."""
    from envs.webshop import session

    self._session = None  # an unknown task ends the old episode too
    goal = self._world.shop.goal(self._world.place(task))
    self._session, self._turns = session.start(goal), 0
    return self._step(self._session)

  def step(self, action: str) -> Step:
    """Plays one action; raises ResetNeeded where no episode runs."""
    from envs.webshop import session

    self._session = session.act(self._world.shop, self.session, action)
    self._turns += 1
    step = self._step(self._session)
    if not step.terminated and self._turns >= self._world.max_turns:
      step = dataclasses.replace(step, truncated=True)
    if step.done:
      self._session = None
    return step

  def _step(self, state: Session) -> Step:
    """What a session shows; its parts name what a purchase is made of."""
    page, reward = state.page, state.reward
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
    actions = {f'click[{name}]' for name in page.clickables if name != 'search'}
    if page.has_search:
      actions |= set(self._world.searches(state.goal.instruction))
    return Step(page.observation, admissible=tuple(sorted(actions)))
