"""BNPO, A-GRAE and COPO: numbers by hand, limits, and COPO's mix of losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hgpo_jax.advantages import difficulty, episode
from hgpo_jax.losses import copo as copo_loss
from hgpo_jax.losses import policy
from tests import workloads

bnpo = functools.partial(jax.jit(difficulty.bnpo), max_return=1.0)
a_grae = functools.partial(jax.jit(difficulty.a_grae), max_return=1.0)


@jax.jit
def copo(rows):
  """The terms of both weightings, and the mixed advantage: one compilation."""
  return (
    difficulty.copo_terms(rows),
    difficulty.copo_terms(rows, weighting='soft_with_zero'),
    difficulty.copo(rows),
    episode.grpo(rows, count='trajectories'),
  )


# Four tasks of four episodes with one, two, three and two successes.
SUCCESSES = np.array([1, 2, 3, 2])
RETURNS = (np.arange(4) < SUCCESSES[:, None]).astype(np.float32)  # [4, 4]
TASKS = workloads.episodes_of(
  RETURNS.ravel().tolist(), task=np.repeat(np.arange(4), 4).tolist()
)


def test_bnpo_divides_by_the_density_of_the_rate():
  inverse = np.array([0.889838, 0.700157, 0.889838, 0.700157])[:, None]
  expected = (RETURNS - SUCCESSES[:, None] / 4) * inverse
  np.testing.assert_allclose(bnpo(TASKS), expected.ravel(), atol=1e-5)
  tenfold = TASKS.replace(episode_return=10 * TASKS.episode_return)
  np.testing.assert_allclose(
    bnpo(tenfold, max_return=10.0), bnpo(TASKS), atol=1e-6
  )


def test_bnpo_of_equal_rates_is_the_mean_only_advantage():
  equal = TASKS.replace(
    episode_return=jnp.asarray(RETURNS[:1].repeat(4, 0)).ravel()
  )
  np.testing.assert_allclose(
    bnpo(equal), jax.jit(episode.dr_grpo)(equal), atol=1e-6
  )


def test_bnpo_ignores_a_penalty_where_all_failed():
  penalised = jnp.zeros(16).at[0].set(-0.1)
  np.testing.assert_array_equal(
    bnpo(TASKS.replace(episode_return=penalised)), 0
  )


def test_a_grae_number_by_hand():
  rows = workloads.episodes_of([1.0, 0.0, 0.0, 0.0, 1.0], task=[0, 0, 0, 0, 1])
  actual = a_grae(rows)  # two of five succeed
  np.testing.assert_allclose(actual, [0.447845, *[-0.373204] * 3, 0], atol=1e-5)
  undamped = a_grae(rows, alpha=0.4)
  np.testing.assert_allclose(undamped[0], 0.447845 / 0.4, atol=1e-5)
  np.testing.assert_array_equal(undamped[1:], actual[1:])


def test_copo_weighs_by_how_much_the_outcomes_differ():
  # One outcome; two of equal share; four; one against three.
  outcome = np.array([[0] * 4, [0, 0, 1, 1], [0, 1, 2, 3], [1, 0, 0, 0]])
  rows = TASKS.replace(outcome=jnp.asarray(outcome.ravel()))
  terms, hard, _, local = jax.tree.map(
    lambda x: np.asarray(x).reshape(4, 4), copo(rows)
  )
  entropy = np.array([0, 1, 2, 0.811278])
  np.testing.assert_allclose(
    terms.weight, np.tile(1 / (1 + np.exp(5 - 5 * entropy)), (4, 1)).T, 1e-5
  )
  means = SUCCESSES / 4
  across = (means - means.mean()) / (means.std(ddof=1) + 1e-6)
  np.testing.assert_allclose(terms.across, np.tile(across, (4, 1)).T, atol=1e-6)
  np.testing.assert_array_equal(terms.local, local)
  np.testing.assert_array_equal(hard.weight, terms.weight * (RETURNS != 0))


def test_the_mixed_advantage_has_the_gradient_of_the_mixed_losses():
  rows = TASKS.replace(outcome=TASKS.traj % 3)
  terms, _, mixed, _ = copo(rows)
  old = -jnp.arange(1.0, 17.0)[:, None] / 8
  mask = jnp.ones((16, 1), bool)

  def of_losses(log_probs):
    return copo_loss.copo(log_probs, old, *terms, mask).loss.sum()

  def of_mixed(log_probs):
    return policy.clipped_surrogate(log_probs, old, mixed, mask).loss.sum()

  gradients = jax.jit(lambda x: (jax.grad(of_losses)(x), jax.grad(of_mixed)(x)))
  np.testing.assert_allclose(*gradients(old), atol=1e-6)


def test_copo_refuses_what_it_does_not_know():
  with pytest.raises(ValueError, match='Rows.outcome'):
    difficulty.copo(TASKS)
  fn = functools.partial(difficulty.copo, weighting='hard')
  with pytest.raises(ValueError, match="weighting='hard'"):
    jax.eval_shape(fn, TASKS.replace(outcome=TASKS.traj))
