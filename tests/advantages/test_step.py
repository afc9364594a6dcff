"""The step-level estimators on a toy small enough to do by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hgpo_jax.advantages import Rows, intern, step

# One task, four episodes of three turns, reward on the last turn only.
OBSERVATIONS = 's a b', 's a b', 's d b', 's d c'
REWARDS = np.array([1.0, 0.0, 0.2, 0.0])
GAMMA = 0.95

MEAN_T0 = [0.63175, -0.27075, -0.09025, -0.27075]
MEAN_T1 = [0.475, -0.475, 0.095, -0.095]
STD_T0 = [1.697744, -0.727605, -0.242535, -0.727605]
STD_T1 = [0.999998, -0.999998, 0.999989, -0.999989]

HGPO = jax.jit(
  step.hgpo,
  static_argnames=(
    'depth',
    'weighting',
    'normalisation',
    'skip_zero',
    'base_group',
    'contexts',
  ),
)
GIGPO = jax.jit(step.gigpo, static_argnames='normalisation')
SALT = jax.jit(functools.partial(step.salt, normalisation='mean'))
TURN_INDEX = jax.jit(
  functools.partial(step.turn_index, normalisation='mean'),
  static_argnames='singleton',
)


def hgpo(rows, **options):
  """HGPO under jit, with one way to spell the defaults, so one compilation."""
  defaults = {
    'depth': 2,
    'alpha': 1.0,
    'weighting': 'released',
    'normalisation': 'mean',
    'skip_zero': False,
    'base_group': False,
    'contexts': 'states',
  }
  return HGPO(rows, **{**defaults, **options})


def toy():
  turn = np.tile(np.arange(3), 4)
  return Rows(
    task=jnp.zeros(12, jnp.int32),
    traj=jnp.repeat(jnp.arange(4), 3),
    turn=jnp.asarray(turn),
    obs=jnp.asarray(intern(' '.join(OBSERVATIONS).split())),
    act=jnp.zeros(12, jnp.int32),
    episode_return=jnp.repeat(jnp.asarray(REWARDS, jnp.float32), 3),
    returns=jnp.asarray(
      np.repeat(REWARDS, 3) * GAMMA ** (2 - turn), jnp.float32
    ),
    mask=jnp.ones(12, bool),
  )


@pytest.mark.parametrize(
  ('weighting', 'normalisation', 'depth', 'last'),
  [
    ('released', 'mean', 0, [0.6, -0.4, -0.2, 0]),
    ('released', 'mean', 1, [0.54, -0.46, -0.2, 0]),
    ('released', 'mean', 2, [0.522222, -0.477778, -0.2, 0]),
    ('released', 'mean_std', 2, [1.086382, -0.983513, -0.462909, 0]),
    ('paper', 'mean', 1, [0.533333, -0.466667, -0.2, 0]),
    ('paper', 'mean', 2, [0.516667, -0.483333, -0.2, 0]),
    ('paper', 'mean_std', 2, [1.064786, -0.987634, -0.462909, 0]),
  ],
)
def test_hgpo_hand_numbers(weighting, normalisation, depth, last):
  actual = hgpo(
    toy(), weighting=weighting, normalisation=normalisation, depth=depth
  )
  first, second = (
    (MEAN_T0, MEAN_T1) if normalisation == 'mean' else (STD_T0, STD_T1)
  )
  expected = np.stack([first, second, last], axis=1)
  np.testing.assert_allclose(actual.reshape(4, 3), expected, atol=1e-6)


def test_gigpo_hand_numbers():
  expected = [
    [1.33175, 1.175, 1.3],
    [-0.57075, -0.775, -0.7],
    [-0.19025, -0.005, -0.3],
    [-0.57075, -0.395, -0.3],
  ]
  actual = GIGPO(toy(), normalisation='mean', weight=1.0)
  np.testing.assert_allclose(actual.reshape(4, 3), expected, atol=1e-6)


def test_one_level_is_plain_step_groups():
  rows = toy()
  alone = hgpo(rows, depth=0)
  both = GIGPO(rows, normalisation='mean', weight=1.0)
  without = GIGPO(rows, normalisation='mean', weight=0.0)
  np.testing.assert_allclose(alone, both - without, atol=1e-6)


def test_alpha_zero_is_the_plain_mean_of_the_levels_under_either_weighting():
  values = [
    hgpo(toy(), alpha=0.0, weighting=name) for name in ('paper', 'released')
  ]
  np.testing.assert_array_equal(*values)


def test_the_base_group_is_one_more_level_of_weight_one():
  with_base = hgpo(toy(), depth=0, base_group=True)
  # Turn 0, depth 0: weights 1 (episode, R - 0.3) and 2 (state).
  expected = ((REWARDS - 0.3) + 2 * np.array(MEAN_T0)) / 3
  np.testing.assert_allclose(with_base[::3], expected, atol=1e-6)
  # A state of its own leaves the episode alone to speak.
  np.testing.assert_allclose(with_base[-1], -0.3, atol=1e-6)


def test_skip_zero_lets_the_other_levels_speak_for_a_row_on_its_mean():
  # Turn 1 sees one state in three episodes; the third came another way.
  turn = jnp.tile(jnp.arange(2), 3)
  rows = Rows(
    task=jnp.zeros(6, jnp.int32),
    traj=jnp.repeat(jnp.arange(3), 2),
    turn=turn,
    obs=jnp.array([0, 2, 0, 2, 1, 2]),
    act=jnp.zeros(6, jnp.int32),
    episode_return=jnp.zeros(6),
    returns=jnp.array([0.0, 1.0, 0.0, 0.0, 0.0, 2.0]),
    mask=jnp.ones(6, bool),
  )
  options = {'depth': 1, 'alpha': 0.0}
  kept = hgpo(rows, skip_zero=False, **options)
  skipped = hgpo(rows, skip_zero=True, **options)
  assert kept[1] == 0.25
  assert skipped[1] == 0.5
  np.testing.assert_array_equal(np.delete(kept, 1), np.delete(skipped, 1))


def test_an_unknown_weighting_is_refused():
  with pytest.raises(ValueError, match='paper'):
    hgpo(toy(), weighting='uniform')


def test_actions_split_the_contexts_of_states():
  # Episode 1 walks from s to a by another action than episode 0.
  rows = toy().replace(act=jnp.zeros(12, jnp.int32).at[3].set(1))
  states = hgpo(rows, depth=2)
  both = hgpo(rows, depth=2, contexts='states_actions')
  np.testing.assert_array_equal(hgpo(toy(), contexts='states_actions'), states)
  # Their third turns share a and b still, but not how they came to a.
  np.testing.assert_allclose(both, hgpo(rows, depth=1), atol=1e-6)
  assert abs(both[2] - states[2]) > 0.01


def test_unknown_contexts_are_refused():
  with pytest.raises(ValueError, match='states_actions'):
    hgpo(toy(), contexts='actions')


def test_turn_index_hand_numbers():
  actual = TURN_INDEX(toy(), singleton='zero')
  of_turn = (REWARDS - 0.3)[:, None] * GAMMA ** np.array([2, 1, 0])
  expected = ((REWARDS - 0.3)[:, None] + of_turn) / 2
  np.testing.assert_allclose(actual.reshape(4, 3), expected, atol=1e-6)


def test_a_turn_that_one_episode_reaches_alone():
  rows = toy()
  alone = rows.replace(mask=(rows.turn < 2) | (rows.traj == 0))
  zero, raw = (TURN_INDEX(alone, singleton=name) for name in ('zero', 'raw'))
  np.testing.assert_allclose(zero[2], 0.7 / 2, atol=1e-6)
  np.testing.assert_allclose(raw[2], (0.7 + 1.0) / 2, atol=1e-6)
  np.testing.assert_array_equal(np.delete(zero, 2), np.delete(raw, 2))


def edges():
  """Three episodes of two turns; the first two begin with the same step."""
  return Rows(
    task=jnp.zeros(6, jnp.int32),
    traj=jnp.repeat(jnp.arange(3), 2),
    turn=jnp.tile(jnp.arange(2), 3),
    obs=jnp.array([0, 1, 0, 1, 0, 2]),
    act=jnp.array([0, 1, 0, 2, 1, 0]),
    episode_return=jnp.repeat(jnp.array([1.0, 0.0, 1.0]), 2),
    returns=jnp.array([0.95, 1.0, 0.0, 0.0, 0.95, 1.0]),
    mask=jnp.ones(6, bool),
  )


def test_salt_hand_numbers():
  actual = SALT(edges())
  expected = np.array([-1 / 6, 1 / 3, -1 / 6, -2 / 3, 1 / 3, 1 / 3])
  np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_the_same_last_step_is_one_edge_only_where_it_ends_alike():
  # All three now end by act 1 in state 1; episode 1 gets nothing for it.
  rows = edges().replace(
    obs=jnp.array([0, 1, 0, 1, 2, 1]), act=jnp.array([0, 1, 0, 1, 1, 1])
  )
  by_return = SALT(rows)
  np.testing.assert_allclose(by_return[1::2], [1 / 3, -2 / 3, 1 / 3], atol=1e-6)
  same = rows.replace(outcome=jnp.zeros(6, jnp.int32))
  by_outcome = SALT(same)
  np.testing.assert_allclose(by_outcome[1::2], [0, 0, 0], atol=1e-6)
  np.testing.assert_array_equal(by_return[::2], by_outcome[::2])
