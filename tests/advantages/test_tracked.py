"""RiskPO's quantiles and the single-stream tracker, by hand and over time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hgpo_jax.advantages import tracked

PAPERS = jnp.arange(6.0)[None]  # one bundle of six papers
STATE = tracked.Quantiles(low=jnp.float32(1), high=jnp.float32(4))
risk_po = functools.partial(tracked.risk_po, PAPERS, STATE, source='track')


def test_risk_po_hand_numbers():
  third = 5 / 3
  natural, _ = risk_po(natural=True)
  np.testing.assert_allclose(
    natural, [[-5, -5, -2 * third, -third, 0, 0]], atol=1e-5
  )
  plain, _ = risk_po()
  np.testing.assert_allclose(plain, [[0, 0, third, 2 * third, 5, 5]], atol=1e-5)
  mixed, _ = risk_po(natural=True, tail=1.5)
  np.testing.assert_allclose(mixed, [[-5, -2, -4 / 3, -2 / 3, 0, 0]], atol=1e-5)
  scaled, _ = risk_po(normalise=True)
  np.testing.assert_allclose(scaled, plain / np.sqrt(3.5), rtol=1e-5)


def test_the_bundles_own_quantiles_count_for_half():
  mixed, _ = tracked.risk_po(PAPERS, STATE, source='mix')
  own = tracked.quantiles_of(PAPERS)  # 1 and 4, by chance of the numbers
  np.testing.assert_allclose([own.low, own.high], [1, 4])
  np.testing.assert_allclose(mixed, risk_po()[0], atol=1e-6)
  elsewhere = tracked.Quantiles(low=own.low - 1, high=own.high + 1)
  half, _ = tracked.risk_po(PAPERS, elsewhere, source='mix')
  np.testing.assert_allclose(
    half,
    tracked.risk_po(
      PAPERS, tracked.Quantiles(own.low - 0.5, own.high + 0.5), source='track'
    )[0],
  )


def test_tracked_quantiles_go_where_the_scores_are():
  state = tracked.Quantiles(low=jnp.float32(2), high=jnp.float32(2))
  _, once = tracked.risk_po(PAPERS, state)
  np.testing.assert_allclose(once.low, 2 + 0.1 * (0.2 - 2 / 6), rtol=1e-6)
  np.testing.assert_allclose(once.high, 2 + 0.1 * (0.8 - 2 / 6), rtol=1e-6)
  scores = jax.random.normal(jax.random.key(0), (2000, 4, 5))
  scan = jax.jit(
    lambda s: jax.lax.scan(lambda q, x: tracked.risk_po(x, q)[::-1], s, scores)
  )
  final, _ = scan(state)
  np.testing.assert_allclose([final.low, final.high], [-0.84, 0.84], atol=0.2)


def test_a_bundle_without_spread_is_not_blown_up():
  same = jnp.full((1, 6), 2.5)
  advantages, _ = tracked.risk_po(same, STATE, normalise=True)
  np.testing.assert_allclose(advantages, (2.5 - 1.75) / 0.6, rtol=1e-6)


def test_credit_of_a_paper():
  rewards = jnp.array([[[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]]])
  paper = jnp.array([[3.0, -3.0, 1.0, 0.0]])
  share = functools.partial(tracked.share_credit, paper, rewards)
  np.testing.assert_array_equal(share('uniform')[0], [paper[0], paper[0]])
  std = share('std')[0]
  np.testing.assert_allclose(std[0], paper[0] / 0.577350, rtol=1e-5)
  np.testing.assert_allclose(std[1], paper[0], rtol=1e-5)  # no spread: by 1
  np.testing.assert_allclose(share('sum_mean')[0], [paper[0], 0 * paper[0]])
  even = tracked.share_credit(paper, jnp.ones((1, 2, 4)), 'sum_mean')
  np.testing.assert_allclose(even[0], [paper[0] / 2, paper[0] / 2])


def test_single_stream_hand_numbers():
  state = tracked.PromptBeliefs(
    alpha=jnp.array([4.0, 1.0, 3.0]), beta=jnp.array([4.0, 3.0, 1.0])
  )
  advantages, after = jax.jit(
    functools.partial(tracked.single_stream, normalisation='mean')
  )(
    jnp.array([1.0, 0.0, 7.0]),
    jnp.array([0, 2, 1]),
    jnp.array([0.03, 0.0, 0.0]),
    jnp.array([True, True, False]),
    state,
  )
  # 1 - 0.5 and 0 - 0.75, around their mean; the last is padding.
  np.testing.assert_allclose(advantages, [0.625, -0.625, 0], atol=1e-6)
  np.testing.assert_allclose(after.alpha, [4.5, 1, 0.96 * 3], rtol=1e-6)
  np.testing.assert_allclose(after.beta, [3.5, 3, 0.96 * 1 + 1], rtol=1e-6)


def test_single_stream_z_scores_and_is_0_without_spread():
  state = tracked.beliefs_from(jnp.array([4.0, 4.0, 0.0]), 8)
  np.testing.assert_allclose(state.alpha, [4, 4, 4 / 9], rtol=1e-6)
  np.testing.assert_allclose(state.beta, [4, 4, 68 / 9], rtol=1e-6)
  step = jax.jit(tracked.single_stream)
  drift, mask = jnp.zeros(2), jnp.ones(2, bool)
  advantages, _ = step(
    jnp.array([1.0, 0.0]), jnp.array([0, 1]), drift, mask, state
  )
  np.testing.assert_allclose(advantages, [0.5**0.5, -(0.5**0.5)], rtol=1e-5)
  equal, _ = step(jnp.array([1.0, 1.0]), jnp.array([0, 1]), drift, mask, state)
  np.testing.assert_array_equal(equal, 0)


def test_beliefs_follow_the_success_rate():
  rewards = jax.random.bernoulli(jax.random.key(1), 0.8, (500, 1))
  start = tracked.beliefs_from(jnp.zeros(1), 8)

  def step(state, reward):
    _, state = tracked.single_stream(
      reward, jnp.zeros(1, int), jnp.zeros(1), jnp.ones(1, bool), state
    )
    return state, state.rate

  _, rates = jax.jit(
    lambda: jax.lax.scan(step, start, rewards.astype(jnp.float32))
  )()
  assert abs(rates[100:].mean() - 0.8) < 0.05


def test_unknown_names_are_refused():
  with pytest.raises(ValueError, match="source='batch'"):
    tracked.risk_po(PAPERS, STATE, source='batch')
  with pytest.raises(ValueError, match="credit='equal'"):
    tracked.share_credit(PAPERS, jnp.ones((1, 2, 6)), 'equal')
