"""What every registered estimator promises, as one table; and its rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hgpo_jax import testing
from hgpo_jax.advantages import ESTIMATORS, check, intern, pad

CASES = [
  ('grpo', {}),
  ('grpo', {'normalisation': 'mean', 'count': 'trajectories'}),
  ('grpo', {'std': 'population'}),
  ('rloo', {}),
  ('rloo', {'count': 'rows'}),
  ('gigpo', {}),
  ('gigpo', {'normalisation': 'mean', 'weight': 0.5, 'count': 'trajectories'}),
  ('hgpo', {}),
  ('hgpo', {'weighting': 'paper', 'normalisation': 'mean', 'depth': 4}),
  ('hgpo', {'alpha': 0.5, 'base_group': True, 'skip_zero': True}),
]
SEEDS = 0, 1, 2
TOLERANCE = {'atol': 1e-5, 'rtol': 1e-5}


SIZE = 120  # of all batches here, so that each case is compiled once


def name_of(case):
  name, options = case
  return '-'.join([name, *map(str, options.values())])


@pytest.fixture(scope='module', params=CASES, ids=name_of)
def case(request):
  """The estimator under jit, and its slow reference."""
  name, options = request.param
  fast = jax.jit(functools.partial(ESTIMATORS[name], **options))
  return fast, functools.partial(testing.REFERENCES[name], **options)


def rows_of(seed):
  """Episodes of one to six turns, in three tasks, and padding."""
  rows = testing.random_trajectories(seed, episodes=6)
  check(rows)
  return pad(testing.as_jax(rows), SIZE)


def take(rows, index):
  return jax.tree.map(lambda field: field[index], rows)


def test_every_estimator_is_in_the_table():
  assert {name for name, _ in CASES} == set(ESTIMATORS)
  assert set(testing.REFERENCES) == set(ESTIMATORS)


def test_equals_the_reference_and_compiles_once(case):
  fast, slow = case
  for seed in SEEDS:
    rows = rows_of(seed)
    actual, expected = fast(rows), slow(jax.tree.map(np.asarray, rows))
    assert actual.shape == rows.mask.shape and actual.dtype == jnp.float32
    assert np.abs(expected).max() > 0.1  # the data has something to say
    np.testing.assert_allclose(actual, expected, **TOLERANCE)
  assert fast._cache_size() == 1


def test_padding_changes_nothing_and_gets_zero(case):
  fast, _ = case
  full = testing.as_jax(testing.random_trajectories(0, groups=5, min_steps=6))
  assert full.mask.shape == (SIZE,) and full.mask.all()
  real = np.asarray(full.task < 3)
  junk = jnp.where(real, 0, jnp.nan)
  padded = full.replace(
    task=jnp.where(real, full.task, 1),  # would be in the way if it counted
    returns=full.returns + junk,
    episode_return=full.episode_return + junk,
    mask=jnp.asarray(real),
  )
  actual, expected = np.asarray(fast(padded)), np.asarray(fast(full))
  np.testing.assert_array_equal(actual[~real], 0)
  np.testing.assert_allclose(actual[real], expected[real], **TOLERANCE)


def test_permuted_rows_get_permuted_results(case):
  fast, _ = case
  rows = rows_of(1)
  order = np.random.default_rng(0).permutation(SIZE)
  np.testing.assert_allclose(
    fast(take(rows, order)), fast(rows)[order], **TOLERANCE
  )


def test_groups_do_not_mix(case):
  fast, _ = case
  rows = rows_of(2)
  other = np.asarray(rows.task != 1)
  noise = jnp.where(other, 0, jnp.arange(float(SIZE)))
  changed = rows.replace(
    returns=rows.returns + noise, episode_return=rows.episode_return - noise
  )
  before, after = np.asarray(fast(rows)), np.asarray(fast(changed))
  np.testing.assert_array_equal(before[other], after[other])
  assert (before != after).any()


def test_adding_a_constant_to_a_group_changes_nothing(case):
  fast, _ = case
  rows = rows_of(0)
  lift = jnp.where(rows.task == 1, 4.0, 0)
  lifted = rows.replace(
    returns=rows.returns + lift, episode_return=rows.episode_return + lift
  )
  np.testing.assert_allclose(fast(lifted), fast(rows), **TOLERANCE)


def test_a_group_without_spread_gets_exactly_zero(case):
  fast, _ = case
  rows = rows_of(0)
  for value in (0.1, 1 / 3, 9.123456):  # no sum of these is exact in float32
    same = jnp.full(SIZE, value, jnp.float32)
    actual = fast(rows.replace(returns=same, episode_return=same))
    np.testing.assert_array_equal(actual, 0)
  # The first task of the random rows has no spread; the others do.
  np.testing.assert_array_equal(fast(rows)[rows.task == 0], 0)


def test_gradients_are_finite_also_without_spread(case):
  fast, _ = case
  rows = rows_of(1)

  def total(returns, episode_return):
    out = fast(rows.replace(returns=returns, episode_return=episode_return))
    return (out * jnp.arange(float(SIZE))).sum()

  gradients = jax.jit(jax.grad(total, (0, 1)))(
    rows.returns, rows.episode_return
  )
  for gradient in gradients:
    assert np.isfinite(gradient).all()
  assert any(np.abs(gradient).max() > 0 for gradient in gradients)


def test_a_single_row_gets_zero(case):
  fast, _ = case
  rows = rows_of(2)
  alone = rows.replace(mask=rows.mask & (jnp.arange(SIZE) == 40))
  assert alone.mask.sum() == 1
  np.testing.assert_array_equal(fast(alone), 0)


def test_intern_numbers_by_first_appearance():
  np.testing.assert_array_equal(intern(['b', 'a', 'b', 'c']), [0, 1, 0, 2])
  assert intern([]).shape == (0,)


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('obs', 99, 'intern'),
    ('task', -1, 'intern'),
    ('turn', 0, 'twice'),
    ('returns', np.nan, 'finite'),
  ],
)
def test_check_refuses_broken_rows(field, value, message):
  rows = testing.random_trajectories(0, min_steps=2)
  check(rows)
  broken = np.array(getattr(rows, field))
  broken[rows.traj == 1] = value
  with pytest.raises(ValueError, match=message):
    check(rows.replace(**{field: broken}))


def test_check_refuses_unequal_shapes_and_pad_too_few_places():
  rows = testing.random_trajectories(0)
  with pytest.raises(ValueError, match='expected one'):
    check(rows.replace(obs=rows.obs[1:]))
  with pytest.raises(ValueError, match='pad to at least'):
    pad(rows, 3)
