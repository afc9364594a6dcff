"""What every registered estimator promises, as one table; and its rows."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import base
from hgpo_jax.advantages import ESTIMATORS, check, intern, intern_within, pad
from hgpo_jax.train import config_checks
from tests import references, workloads

CASES = [
  ('grpo', {}),
  ('grpo', {'normalisation': 'mean', 'count': 'trajectories'}),
  ('grpo', {'std': 'population'}),
  ('rloo', {}),
  ('rloo', {'count': 'rows'}),
  ('dr_grpo', {}),
  ('dr_mas', {}),
  ('dr_mas', {'count': 'trajectories', 'std': 'population'}),
  ('reinforce_pp', {}),
  ('reinforce_pp_baseline', {}),
  ('reinforce_pp_baseline', {'count': 'trajectories', 'std': 'population'}),
  ('lite_ppo', {}),
  ('lite_ppo', {'count': 'rows', 'std': 'population'}),
  ('gdpo', {}),
  ('gdpo', {'weights': (2.0, 0.5), 'count': 'rows'}),
  ('ngrpo', {}),
  ('ngrpo', {'max_return': 2.0, 'count': 'rows', 'std': 'population'}),
  ('mc_grpo', {}),
  ('mc_grpo', {'rescale': True, 'limit': 5.0, 'count': 'rows'}),
  ('bnpo', {'max_return': 1.0}),
  ('bnpo', {'max_return': 2.0, 'limit': 1.0, 'count': 'rows'}),
  ('a_grae', {}),
  ('a_grae', {'alpha': 0.5, 'max_return': 2.0, 'count': 'rows'}),
  ('copo', {}),
  ('copo', {'gain': 2.0, 'offset': 0.5, 'count': 'rows'}),
  ('gigpo', {}),
  ('gigpo', {'normalisation': 'mean', 'weight': 0.5, 'count': 'trajectories'}),
  ('hgpo', {}),
  ('hgpo', {'weighting': 'paper', 'normalisation': 'mean', 'depth': 4}),
  ('hgpo', {'alpha': 0.5, 'base_group': True, 'skip_zero': True}),
  ('hgpo', {'contexts': 'states_actions', 'depth': 1}),
  ('hgpo_shrink', {}),
  ('hgpo_shrink', {'normalisation': 'mean', 'contexts': 'states_actions'}),
  ('turn_index', {}),
  ('turn_index', {'normalisation': 'mean', 'count': 'rows'}),
  ('salt', {}),
]


class Promise(NamedTuple):
  """What an estimator's formula promises.

  Attributes:
    others: what rewards of other tasks may change about a task's rows:
      'nothing', or all but their 'order' where a statistic of the whole batch
      scales or shifts a task.
    shift: on whose rewards a constant may be added without a change: a single
      task's ('group'), only all tasks' ('batch'), or nobody's ('none').
    flat: what must be without spread to get exactly 0: a 'group', the whole
      'batch'; with 'none', all rows of a flat task get one value below 0.
  """

  others: str = 'nothing'
  shift: str = 'group'
  flat: str = 'group'


# Of those that do not promise all of it.
PROMISES = {
  'reinforce_pp': Promise('order', 'batch', 'batch'),
  'reinforce_pp_baseline': Promise('order'),
  'lite_ppo': Promise('order', 'batch'),
  'gdpo': Promise('order'),
  'ngrpo': Promise(shift='none', flat='none'),
  'bnpo': Promise('order', 'none'),
  'a_grae': Promise('order', 'none'),
  'copo': Promise('order', 'batch', 'batch'),
}
SEEDS = 0, 1, 2
TOLERANCE = {'atol': 1e-5, 'rtol': 1e-5}
SIZE = 120  # of all batches here: all cases are compiled once, together


def name_of(case):
  name, options = case
  return '-'.join([name, *map(str, options.values())])


NAMES = [name_of(case) for case in CASES]
FIRST = {name: name_of((name, options)) for name, options in reversed(CASES)}


# One compilation for all, and a quick one: nobody waits for what it computes.
@functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)
def everything(rows):
  """Advantages of all cases, and gradients of a sum of each estimator's first.

  The gradients are by all kinds of reward, of which every estimator has its own
  copy.
  """

  def total(rewards):
    found = {
      name_of((name, options)): ESTIMATORS[name](
        rows.replace(**rewards[name]), **options
      )
      for name, options in CASES
    }
    seen = sum(
      found[first] @ jnp.arange(float(SIZE)) for first in FIRST.values()
    )
    return seen, found

  names = 'returns', 'episode_return', 'scores'
  rewards = {name: getattr(rows, name) for name in names}
  gradients, found = jax.grad(total, has_aux=True)(
    dict.fromkeys(FIRST, rewards)
  )
  return found, gradients


_SEEN = {}


def seen(rows):
  """`everything(rows)`, remembered: every case asks for the same rows."""
  key = b''.join(np.asarray(x).tobytes() for x in jax.tree.leaves(rows))
  if key not in _SEEN:
    _SEEN[key] = jax.device_get(everything(rows))
  return _SEEN[key]


@pytest.fixture(params=CASES, ids=NAMES)
def case(request):
  """Rows -> advantages of one case, its slow reference and its promises."""
  name, options = request.param
  return (
    lambda rows: seen(rows)[0][name_of(request.param)],
    functools.partial(references.REFERENCES[name], **options),
    PROMISES.get(name, Promise()),
  )


def rows_of(seed):
  """Episodes of one to six turns, in three tasks, and padding."""
  rows = workloads.random_trajectories(seed, episodes=6)
  rows = with_optional(rows)
  check(rows)
  return pad(workloads.as_jax(rows), SIZE)


def with_optional(rows):
  """Adds two agents that alternate, two scores, and outcomes."""
  second = np.cos(rows.traj + (rows.task > 0) * rows.traj**2)
  scores = [rows.episode_return, np.where(rows.task > 0, second, 1)]
  return rows.replace(
    agent=rows.turn % 2,
    scores=np.stack(scores, -1).astype(np.float32),
    outcome=rows.traj % 3,
  )


def take(rows, index):
  return jax.tree.map(lambda field: field[index], rows)


def lifted(rows, amount):
  """Adds `amount [N]` to all rewards of every row."""
  return rows.replace(
    returns=rows.returns + amount,
    episode_return=rows.episode_return + amount,
    scores=rows.scores + amount[:, None],
  )


def set_to(rows, value):
  """Gives all rows the same rewards."""
  same = jnp.full(SIZE, value, jnp.float32)
  scores = jnp.stack([same, same], -1)
  return rows.replace(returns=same, episode_return=same, scores=scores)


def test_every_estimator_is_in_the_table():
  assert {name for name, _ in CASES} == set(ESTIMATORS)
  assert set(references.REFERENCES) == set(ESTIMATORS)
  assert set(PROMISES) <= set(ESTIMATORS)
  assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize('name', ESTIMATORS)
def test_the_configured_options_are_the_estimators(name):
  config = base.get_config()
  config.mesh.fsdp = 1
  config.algo.estimator = name
  if name == 'dr_mas':  # one agent plays here
    with pytest.raises(ValueError, match='Rows.agent'):
      config_checks.check(base.freeze(config))
  else:
    config_checks.check(base.freeze(config))


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('reinforce_pp.std', 'both', "std is 'both'; expected one of .*sample"),
    ('lite_ppo.count', 'turns', "count is 'turns'; expected one of .*'rows'"),
    ('bnpo.max_return', 0.0, 'max_return is 0.0; expected'),
    ('a_grae.max_return', -1.0, 'max_return is -1.0; expected'),
    ('gigpo.similarity', 1.5, 'similarity is 1.5; expected at most 1'),
    ('gigpo.similarity', 0.0, 'similarity is 0.0; expected'),
    ('hgpo_shrink.depth', -2, 'depth is -2; expected at least -1'),
  ],
)
def test_an_option_that_cannot_work_is_refused_at_the_start(
  field, value, message
):
  config = base.get_config()
  config.mesh.fsdp = 1
  config.algo.estimator = field.split('.')[0]
  config.algo.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=message):
    config_checks.check(base.freeze(config))


def test_equals_the_reference_and_compiles_once(case):
  fast, slow, _ = case
  for seed in SEEDS:
    rows = rows_of(seed)
    actual, expected = fast(rows), slow(jax.tree.map(np.asarray, rows))
    assert actual.shape == rows.mask.shape
    assert actual.dtype == jnp.float32
    assert np.abs(expected).max() > 0.1  # the data has something to say
    np.testing.assert_allclose(actual, expected, **TOLERANCE)
  assert everything._cache_size() == 1


def test_padding_changes_nothing_and_gets_zero(case):
  fast, _, _ = case
  full = with_optional(
    workloads.random_trajectories(0, groups=5, episodes=4, min_steps=6)
  )
  full = workloads.as_jax(full)
  assert full.mask.shape == (SIZE,)
  assert full.mask.all()
  real = np.asarray(full.task < 3)
  junk = jnp.where(real, 0, jnp.nan)
  masked = lifted(full, junk).replace(
    task=jnp.where(real, full.task, 1),  # would be in the way if it counted
    mask=jnp.asarray(real),
  )
  without = pad(take(full, real), SIZE)
  actual, expected = fast(masked), fast(without)
  np.testing.assert_array_equal(actual[~real], 0)
  np.testing.assert_array_equal(expected[real.sum() :], 0)
  np.testing.assert_allclose(actual[real], expected[: real.sum()], **TOLERANCE)


def test_permuted_rows_get_permuted_results(case):
  fast, _, _ = case
  rows = rows_of(1)
  order = np.random.default_rng(0).permutation(SIZE)
  np.testing.assert_allclose(
    fast(take(rows, order)), fast(rows)[order], **TOLERANCE
  )


def test_other_groups_change_no_more_than_is_promised(case):
  fast, _, promise = case
  rows = rows_of(2)
  noise = np.where(rows.task == 1, np.arange(SIZE) % 7 / 7, 0)
  before, after = fast(rows), fast(lifted(rows, jnp.asarray(noise)))
  assert (before != after).any()
  if promise.others == 'nothing':
    others = rows.task != 1
    np.testing.assert_array_equal(before[others], after[others])
    return
  assert promise.others == 'order'
  group = np.asarray((rows.task == 2) & rows.mask)
  gaps = [x[group, None] - x[None, group] for x in (before, after)]
  differ = np.abs(gaps[0]) > 1e-5
  assert differ.any()
  np.testing.assert_array_equal(*(np.sign(gap[differ]) for gap in gaps))
  np.testing.assert_allclose(gaps[1][~differ], 0, atol=1e-4)


def test_adding_a_constant_changes_nothing_where_that_is_promised(case):
  fast, _, promise = case
  rows = rows_of(0)
  of_group = fast(lifted(rows, jnp.where(rows.task == 1, 4.0, 0)))
  of_batch = fast(lifted(rows, jnp.full(SIZE, 4.0)))
  scope = {'none': 0, 'batch': 1, 'group': 2}[promise.shift]
  for found, least in (of_batch, 1), (of_group, 2):
    if scope >= least:
      np.testing.assert_allclose(found, fast(rows), **TOLERANCE)
    else:
      assert np.abs(found - fast(rows)).max() > 1e-3


def test_without_spread_exactly_zero_where_that_is_promised(case):
  fast, _, promise = case
  rows = rows_of(0)
  for value in (0.1, 1 / 3, 9.123456):  # no sum of these is exact in float32
    actual = fast(set_to(rows, value))
    if promise.flat != 'none':
      np.testing.assert_array_equal(actual, 0)
  # The first task of the random rows has no spread; the others do.
  first = fast(rows)[np.asarray(rows.mask & (rows.task == 0))]
  assert len(np.unique(first)) == 1
  if promise.flat == 'group':
    np.testing.assert_array_equal(first, 0)


def test_without_spread_equally_bad_where_that_is_promised(case):
  fast, _, promise = case
  rows = rows_of(0)
  actual = fast(set_to(rows, 0.1))
  for task in range(3):
    of_task = actual[np.asarray(rows.mask & (rows.task == task))]
    assert len(np.unique(of_task)) == 1
    assert (of_task[0] < 0) == (promise.flat == 'none')


def test_a_single_row_is_a_batch_without_spread(case):
  fast, _, promise = case
  rows = rows_of(2)
  alone = set_to(rows, 0.1).replace(mask=rows.mask & (jnp.arange(SIZE) == 40))
  assert alone.mask.sum() == 1
  assert fast(alone).any() == (promise.flat == 'none')


@pytest.mark.parametrize('name', FIRST)
def test_gradients_are_finite_also_without_spread(name):
  for rows in rows_of(1), set_to(rows_of(1), 1 / 3):
    gradients = seen(rows)[1][name].values()
    assert all(np.isfinite(gradient).all() for gradient in gradients)
  gradients = seen(rows_of(1))[1][name].values()
  assert any(np.abs(gradient).max() > 0 for gradient in gradients)


@pytest.mark.parametrize('name', ESTIMATORS)
def test_fields_of_other_shapes_are_refused_when_traced(name):
  rows = rows_of(0)
  jax.eval_shape(ESTIMATORS[name], rows)
  for field in 'mask', 'returns', 'task', 'scores':
    short = rows.replace(**{field: getattr(rows, field)[1:]})
    with pytest.raises(AssertionError, match='shape'):
      jax.eval_shape(ESTIMATORS[name], short)


def test_intern_numbers_by_first_appearance():
  np.testing.assert_array_equal(intern(['b', 'a', 'b', 'c']), [0, 1, 0, 2])
  assert intern([]).shape == (0,)


def test_intern_within_numbers_each_owner_from_zero():
  ids = intern_within('xxyxy', ['b', 'a', 'a', 'b', 'b'])
  np.testing.assert_array_equal(ids, [0, 1, 0, 0, 1])
  with pytest.raises(ValueError, match='shorter'):
    intern_within('xx', ['a'])


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('obs', 99, 'intern'),
    ('task', -1, 'intern'),
    ('turn', 0, 'twice'),
    ('returns', np.nan, 'finite'),
  ],
)
def test_check_refuses_broken_rows(field, value, message):
  rows = workloads.random_trajectories(0, min_steps=2)
  check(rows)
  broken = np.array(getattr(rows, field))
  broken[rows.traj == 1] = value
  with pytest.raises(ValueError, match=message):
    check(rows.replace(**{field: broken}))


def test_check_refuses_unequal_shapes_and_pad_too_few_places():
  rows = workloads.random_trajectories(0)
  with pytest.raises(ValueError, match='expected one'):
    check(rows.replace(obs=rows.obs[1:]))
  with pytest.raises(ValueError, match='pad to at least'):
    pad(rows, 3)
