"""The typed config: one default in one place, and what follows from kinds."""

import dataclasses
import inspect
import json

import jax
import pytest

from envs import registry
from experiments.configs import alfworld_tiny, base, paper, toy
from hgpo_jax import config as config_lib
from hgpo_jax.advantages import ESTIMATORS
from hgpo_jax.config import fields
from hgpo_jax.losses import SURROGATES
from hgpo_jax.model import sharding
from hgpo_jax.train import config_checks
from hgpo_jax.types import ConfigError
from launch import sweep_file
from tests.runs import changed

LEAVES = {leaf.name: leaf for leaf in config_lib.leaves(base.DEFAULT)}


def config(module=toy, **changes):
  return base.freeze(changed(module.get_config(), **changes))


def test_a_config_is_a_draft_and_json_and_back():
  for c in (base.DEFAULT, config(), config(alfworld_tiny)):
    assert base.freeze(json.loads(json.dumps(c.to_dict()))) == c
  assert base.freeze(base.get_config()) == base.DEFAULT
  with pytest.raises(dataclasses.FrozenInstanceError):
    base.DEFAULT.seed = 1


def test_defaults_of_options_are_those_of_their_functions():
  sections = [
    ('algo', ESTIMATORS, base.DEFAULT.algo.options),
    ('env', registry.WORLDS, base.DEFAULT.env.options),
    (
      'loss',
      {n: fn for n, fn in SURROGATES.items() if n != 'clipped'},
      base.DEFAULT.loss.options,
    ),
  ]
  for section, functions, options in sections:
    for name, fn in functions.items():
      found = fields.to_dict(options[name])
      for p in inspect.signature(fn).parameters.values():
        if p.default is not p.empty and p.name != 'depth':
          assert found.pop(p.name) == p.default
          assert LEAVES[f'{section}.{name}.{p.name}'].default == p.default
      assert not found.keys() - {'depth', 'similarity'}
  clipped = inspect.signature(SURROGATES['clipped']).parameters
  assert base.DEFAULT.loss.chosen == {
    n: p.default for n, p in clipped.items() if p.default is not p.empty
  }


# What runs used before options were read off signatures.
@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('algo.ngrpo.max_return', 10.0),
    ('algo.mc_grpo.limit', 10.0),
    ('algo.bnpo.max_return', 10.0),
    ('algo.grpo.count', 'rows'),
    ('algo.rloo.count', 'trajectories'),
    ('algo.gigpo.similarity', 1.0),
    ('algo.hgpo.weighting', 'released'),
    ('algo.ppo.value_clip', 0.5),
    ('loss.gspo.clip_high', 4e-4),
    ('loss.clip_high', 0.2),
    ('env.webshop.num_products', 300),
    ('optim.learning_rate', 1e-6),
    ('eval.temperatures', (1.0, 0.4)),
  ],
)
def test_a_default_is_what_it_was(name, value):
  assert LEAVES[name].default == value


def test_every_field_says_what_it_means():
  for leaf in LEAVES.values():
    assert leaf.about.doc, leaf.name
    assert leaf.about.kind in ('identity', 'speed', 'place')
  text = config_lib.describe(config(optim__learning_rate=0.5))
  (line,) = (x for x in text.splitlines() if ' optim.learning_rate ' in x)
  assert line.startswith('* ')
  assert '0.5' in line
  assert 'identity' in line
  assert '  env.timeout = 120.0 s' in text
  assert "'mean' | 'mean_std'" in text


def test_what_is_mistyped_names_the_nearest_and_all_is_told():
  tree = base.get_config().to_dict()
  tree['optim']['learnig_rate'] = 1
  tree['algo']['hgpo']['alfa'] = 1
  tree['seed'], tree['eval']['splits'] = 'one', 'train'
  with pytest.raises(ConfigError) as error:
    base.freeze(tree)
  found = str(error.value).splitlines()
  assert len(found) == 4
  for text in (
    "seed is 'one'; expected a value of type int.",
    "'algo.hgpo.alfa'; did you mean algo.hgpo.alpha",
    "'optim.learnig_rate'; did you mean optim.learning_rate?",
    "eval.splits is 'train'; expected a tuple, such as ('train',).",
  ):
    assert sum(text in line for line in found) == 1


def test_all_that_cannot_work_is_told_at_once():
  c = config(
    rollout__groups=0,
    algo__gamma=2.0,
    policy__preset='big',
    optim__row_tokens=1,
    loss__kl='k4',
    rollout__max_groups=-1,
    sampling__chunk=0,
    sampling__prompt_buckets=(),
    sampling__choice_buckets=(3, 1),
  )
  found = '\n'.join(config_checks.problems(c)).splitlines()
  for text in (
    'rollout.groups is 0; expected at least 1.',
    'rollout.max_groups is -1; expected at least 0.',
    'algo.gamma is 2.0; expected 0 to 1.',
    "policy.preset is 'big'; expected one of",
    'optim.row_tokens=1',
    "loss.kl is 'k4'; expected one of",
    'sampling.chunk is 0; expected at least 1.',
    'sampling.prompt_buckets is (); expected at least one positive size.',
    'sampling.choice_buckets is (3, 1); expected ascending sizes.',
  ):
    assert sum(text in line for line in found) == 1
  assert len(found) == 9
  assert not config_checks.problems(config())


def differing(matters, **changes):
  one, other = config(alfworld_tiny), config(alfworld_tiny, **changes)
  found = config_lib.differences(
    one.to_dict(), json.loads(json.dumps(other.to_dict())), matters, one
  )
  return [line.partition(':')[0] for line in found]


def test_what_differs_matters_by_its_kind():
  changes = {
    'iterations': 7,
    'seed': 1,
    'run_dir': 'x',
    'env__addresses': ('a:1',),
    'env__alfworld__root': '/data',
    'rollout__workers': 3,
    'optim__microbatch_rows': 2,
    'mesh__fsdp': 2,
    'algo__gamma': 0.5,
  }
  assert differing(config_lib.fixed_on_resume, **changes) == [
    'algo.gamma', 'seed']  # fmt: skip
  assert differing(config_lib.same_run, **changes) == [
    'algo.gamma', 'iterations', 'seed']  # fmt: skip
  assert differing(config_lib.same_budget, **changes) == [
    'env.alfworld.root', 'iterations']  # fmt: skip
  assert set(differing(config_lib.same_processes, **changes)) == {
    'algo.gamma', 'env.alfworld.root', 'iterations', 'mesh.fsdp',
    'optim.microbatch_rows', 'run_dir', 'seed'}  # fmt: skip


def test_a_field_that_only_one_config_has_matters():
  one, other = {'optim': {'b': (1, 2)}, 'old': 0}, {'optim': {'b': [1, 2]}}
  assert config_lib.differences(
    one, {**other, 'new': 1}, config_lib.same_run, base.DEFAULT
  ) == ["new: 'absent' -> 1", "old: 0 -> 'absent'"]


def test_a_warm_start_depends_on_the_world_that_is_played():
  def key(**changes):
    return config_lib.warm_start_fields(config(alfworld_tiny, **changes))

  assert key() == key(
    env__webshop__per_page=3,
    env__toy__num_words=5,
    env__servers=2,
    algo__hgpo__depth=4,
    policy__remat='full',
  )
  for change in (
    {'env__alfworld__game_seed': 1},
    {'env__history': 4},
    {'seed': 1},
    {'policy__width': 32},
    {'sampling__max_reply': 9},
    {'warmstart__minibatch_turns': 8},
    {'optim__row_tokens': 200},
  ):
    assert key() != key(**change)


def test_what_a_resumed_run_may_change_keeps_its_warm_start():
  def key(**changes):
    c = config(alfworld_tiny, **changes)
    return config_lib.warm_start_fields(c, identity=True)

  assert key() == key(optim__microbatch_rows=8, env__alfworld__root='/data')
  assert key() != key(env__history=4)


def test_the_depth_of_contexts_is_that_of_the_prompt_unless_told():
  from hgpo_jax.train import estimators

  def depth(**changes):
    return estimators.estimator(config(**changes)).keywords['depth']

  assert depth() == 2
  assert depth(env__history=4) == 4
  assert depth(env__history=4, algo__hgpo__depth=3) == 3
  assert depth(algo__estimator='hgpo_shrink', algo__hgpo_shrink__depth=0) == 0


def test_axes_of_sweeps_are_fields():
  assert sweep_file.AXES == {
    'method': 'algo.estimator', 'world': 'env.world', 'size': 'policy.preset',
    'k': 'env.history', 'seed': 'seed'}  # fmt: skip


def test_a_function_of_ones_own_has_its_options_in_the_config():
  def mine(rows, *, count: str = 'rows', power: float = 2.0):
    """Estimates.

    Args:
      rows: the batch.
      count: who is counted. And more
        that nobody needs to know at once.
      power: of it.

    Returns: nothing.
    """

  made = config_lib.options_of(mine)()
  assert [(x.name, x.value, x.about.doc) for x in config_lib.leaves(made)] == [
    ('count', 'rows', 'who is counted'),
    ('power', 2.0, 'of it'),
  ]


class WorldOfOnesOwn:
  def __init__(self, size, root=None, limits: dict[str, int] | None = None):
    pass


def test_options_of_a_world_of_ones_own_take_what_it_takes():
  name = f'{__name__}:WorldOfOnesOwn'
  default = config_lib.default({name: WorldOfOnesOwn})
  given = {'size': 3, 'root': '/data', 'limits': {'x': 1}}
  c = config_lib.filled(default, {'env': {'world': name, name: given}})
  assert c.env.chosen == given
  assert config_lib.warm_start_fields(c)[f'env.{name}.size'] == 3
  with pytest.raises(ConfigError, match=f'options of the world {name!r}: '):
    config_lib.default({name: lambda options=[]: None})  # noqa: B006


def test_a_mesh_that_does_not_divide_the_heads_is_refused():
  mesh = jax.sharding.AbstractMesh((1, 1, 3), sharding.AXES)
  (text,) = config_checks.problems(config(), lambda c: mesh)
  assert 'mesh.tensor=3 for a model of 4 query heads' in text


def test_paper_cells_can_be_frozen_and_differ_in_identity():
  cells = [base.freeze(paper.get_config(name)) for name in paper.CELLS]
  assert len({json.dumps(c.to_dict()) for c in cells}) == len(paper.CELLS)
