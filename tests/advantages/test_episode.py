"""GRPO, RLOO and kin: numbers by hand, and what counts as a member."""

import jax
import numpy as np
import pytest

from hgpo_jax.advantages import episode
from tests import workloads

OPTIONS = 'count', 'singleton'
grpo = jax.jit(episode.grpo, static_argnames=('normalisation', 'std', *OPTIONS))
rloo = jax.jit(episode.rloo, static_argnames=OPTIONS)
dr_grpo = jax.jit(episode.dr_grpo, static_argnames=OPTIONS)
dr_mas = jax.jit(episode.dr_mas, static_argnames=('normalisation', *OPTIONS))


def test_hand_numbers():
  rows = workloads.episodes_of([1.0, 0.0, 0.0, 1.0])
  signs = np.array([1, -1, -1, 1])
  np.testing.assert_allclose(grpo(rows), 0.866024 * signs, atol=1e-6)
  np.testing.assert_allclose(rloo(rows), 0.666667 * signs, atol=1e-6)
  for std, scale in (('population', 0.5), ('sample', 0.57735027)):
    np.testing.assert_allclose(
      grpo(rows, std=std), 0.5 * signs / scale, atol=1e-5
    )
  np.testing.assert_array_equal(grpo(rows, normalisation='mean'), 0.5 * signs)
  np.testing.assert_array_equal(dr_grpo(rows), 0.5 * signs)


def test_rows_weigh_an_episode_by_its_length_and_trajectories_do_not():
  rows = workloads.episodes_of([1.0, 0.0], lengths=[3, 1])
  by_rows = grpo(rows, normalisation='mean', count='rows')
  np.testing.assert_allclose(by_rows, [0.25, 0.25, 0.25, -0.75], atol=1e-6)
  once = grpo(rows, normalisation='mean', count='trajectories')
  np.testing.assert_allclose(once, [0.5, 0.5, 0.5, -0.5], atol=1e-6)
  left_out = rloo(rows)  # each against the other episode alone
  np.testing.assert_allclose(left_out, [1, 1, 1, -1], atol=1e-6)
  one_row_out = rloo(rows, count='rows')
  np.testing.assert_allclose(one_row_out, [1 / 3, 1 / 3, 1 / 3, -1], atol=1e-6)


@pytest.mark.parametrize('fn', [grpo, rloo, dr_grpo])
def test_a_group_of_one_follows_the_rule_that_was_chosen(fn):
  rows = workloads.episodes_of([3.0], lengths=[2])
  options = {'count': 'trajectories'}
  np.testing.assert_array_equal(fn(rows, singleton='zero', **options), 0)
  np.testing.assert_array_equal(fn(rows, singleton='raw', **options), 3)


@pytest.mark.parametrize('options', [{'count': 'tokens'}, {'singleton': 'one'}])
def test_unknown_names_are_refused(options):
  with pytest.raises(ValueError, match='expected'):
    rloo(workloads.episodes_of([1.0, 0.0]), **options)


def test_agents_are_judged_among_their_own_turns():
  rows = workloads.episodes_of([1.0, 0.0], lengths=[3, 2])
  rows = rows.replace(agent=rows.turn % 2)  # turns 0 and 2, and turn 1
  by_rows = dr_mas(rows, normalisation='mean')
  np.testing.assert_allclose(by_rows, [1 / 3, 0.5, 1 / 3, -2 / 3, -0.5], 1e-6)
  once = dr_mas(rows, normalisation='mean', count='trajectories')
  np.testing.assert_allclose(once, [0.5, 0.5, 0.5, -0.5, -0.5], 1e-6)


def test_one_agent_is_none():
  rows = workloads.episodes_of([1.0, 0.0], lengths=[3, 2])
  alone = rows.replace(agent=rows.turn * 0)
  np.testing.assert_array_equal(dr_mas(alone), grpo(rows))
  with pytest.raises(ValueError, match='Rows.agent'):
    episode.dr_mas(rows)
