"""What every surrogate promises, as one table; and hand numbers of some."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hgpo_jax.losses import SURROGATES, bapo, dcpo, hapo, policy, sequence

ROWS, LENGTH = 6, 5  # of all batches here, so that each case is compiled once


def tokens(seed, scale=0.4):
  """Log-probs of two policies, advantages, ragged mask with an empty row."""
  rng = np.random.default_rng(seed)
  old = -rng.exponential(size=(ROWS, LENGTH))
  new = old + scale * rng.normal(size=old.shape)
  advantages = np.broadcast_to(rng.normal(size=(ROWS, 1)), old.shape)
  lengths = np.append(rng.integers(1, LENGTH + 1, ROWS - 1), 0)
  mask = np.arange(LENGTH) < lengths[:, None]
  return *(x.astype(np.float32) for x in (new, old, advantages)), mask


# Slow references, float64, one row without padding at a time. `now` is the
# value of `new` that gradients do not see.


def clip_loss(a, ratio, low, high, dual=np.inf):
  loss = np.maximum(-a * ratio, -a * np.clip(ratio, low, high))
  return np.where(a < 0, np.minimum(loss, -a * dual), loss)


def slow_clipped(new, now, old, a, *, clip_low, clip_high, dual_clip):
  ratio = np.exp(new - old)
  dual_clip = dual_clip or np.inf
  return clip_loss(a, ratio, 1 - clip_low, 1 + clip_high, dual_clip)


def slow_gspo(new, now, old, a, *, clip_low, clip_high):
  ratio = np.exp((now - old).mean()) * np.exp(new - now)
  return clip_loss(a, ratio, 1 - clip_low, 1 + clip_high)


def slow_gmpo(new, now, old, a, *, clip_low, clip_high):
  kept = []
  for change, sign in zip(new - old, np.sign(a), strict=True):
    held = min(max(change, -clip_low), clip_high)
    kept.append(min(change, held) if sign > 0 else max(change, held))
  return np.full(new.shape, -a.mean() * np.exp(np.mean(kept)))


def slow_kpo(new, now, old, a, *, q, clip_low, clip_high):
  gain = x = 0.0
  ratios = []
  for z, change in zip(now - old, new - now, strict=True):
    gain = (gain + q) / (gain + q + 1)
    x = (1 - gain) * x + gain * z
    ratios.append(np.exp(x + change))
  return clip_loss(a, np.array(ratios), 1 - clip_low, 1 + clip_high)


def slow_dcpo(new, now, old, a, *, clip_low, clip_high, dual_clip):
  q = np.exp(old)
  low = 0.5 + 0.5 * np.sqrt(np.maximum(1 - 4 * clip_low / q, 0))
  high = 0.5 + 0.5 * np.sqrt(1 + 4 * clip_high / q)
  high = np.minimum(high, max(dual_clip, 10))
  return clip_loss(a, np.exp(new - old), low, high, dual_clip)


def slow_cispo(new, now, old, a, *, clip_low, clip_high):
  weight = np.clip(np.exp(now - old), 1 - clip_low, 1 + clip_high)
  return -weight * a * new


def slow_sapo(new, now, old, a, *, tau_positive, tau_negative):
  tau = np.where(a > 0, tau_positive, tau_negative)
  return -a * 4 / tau / (1 + np.exp(-tau * (np.exp(new - old) - 1)))


def slow_bapo(new, now, old, a, *, low, high):
  return clip_loss(a, np.exp(new - old), low, high, 3.0)


def slow_hapo(new, now, old, a, *, clip_low, clip_high):
  losses = []
  for ratio, advantage, h in zip(
    np.exp(new - old), a, scores_of(old), strict=True
  ):
    near = 1 - clip_low / 2 < ratio < 1 + clip_high / 2
    if (h > 0) != near:
      advantage *= 1 + h
    low = 1 - (clip_low * (1 - h) if h <= 0 else clip_low)
    high = 1 + (clip_high * (1 + h) if h > 0 else clip_high)
    losses.append(clip_loss(advantage, ratio, low, high, 10.0))
  return np.array(losses)


def scores_of(old):
  return np.tanh(old + 1)


def fast_hapo(new, old, advantages, mask, **options):
  scores = jnp.tanh(old + 1)
  return hapo.hapo(new, old, advantages, mask, scores, **options)


def fast_bapo(new, old, advantages, mask, *, low, high):
  return bapo.bapo(new, old, advantages, mask, bapo.Bounds(low, high))


class Case(NamedTuple):
  name: str
  options: dict
  slow: object
  fast: object = None  # one that needs more than the registered ones


TIGHT = {'clip_low': 0.1, 'clip_high': 0.2}
CASES = [
  Case('clipped', {**TIGHT, 'dual_clip': None}, slow_clipped),
  Case('clipped', {**TIGHT, 'dual_clip': 1.5}, slow_clipped),
  Case('gspo', TIGHT, slow_gspo),
  Case('gmpo', TIGHT, slow_gmpo),
  Case('kpo', {'q': 0.3, **TIGHT}, slow_kpo),
  Case('dcpo', {**TIGHT, 'dual_clip': 1.5}, slow_dcpo),
  Case('cispo', TIGHT, slow_cispo),
  Case('sapo', {'tau_positive': 1.0, 'tau_negative': 2.0}, slow_sapo),
  Case('bapo', {'low': 0.7, 'high': 1.3}, slow_bapo, fast_bapo),
  Case('hapo', TIGHT, slow_hapo, fast_hapo),
]


def name_of(case):
  return '-'.join([case.name, *map(str, case.options.values())])


@pytest.fixture(scope='module', params=CASES, ids=name_of)
def case(request):
  """(what jit makes of it: surrogate and gradients, the slow reference)."""
  name, options, slow, fast = request.param
  fn = functools.partial(fast or SURROGATES[name], **options)

  @jax.jit
  def run(new, old, advantages, mask):
    def total(*floats):
      out = fn(*floats, mask)
      return out.loss.sum(), out

    gradients, out = jax.grad(total, (0, 1, 2), has_aux=True)(
      new, old, advantages
    )
    return out, gradients

  return run, functools.partial(slow, **options)


def by_row(slow, new, now, old, advantages, mask):
  """The reference over a batch, 0 on padding."""
  loss = np.zeros(new.shape)
  for b, real in enumerate(mask):
    if real.any():
      row = (np.float64(x[b][real]) for x in (new, now, old, advantages))
      loss[b][real] = slow(*row)
  return loss


def test_every_registered_surrogate_is_in_the_table():
  assert set(SURROGATES) <= {case.name for case in CASES}


def test_equals_the_reference_and_compiles_once(case):
  run, slow = case
  for seed in range(3):
    new, old, advantages, mask = tokens(seed)
    out, _ = run(new, old, advantages, mask)
    assert all(x.dtype == jnp.float32 for x in out)
    loss = by_row(slow, new, new, old, advantages, mask)
    np.testing.assert_allclose(out.loss, loss, atol=1e-5)
  assert run._cache_size() == 1


def test_gradient_equals_the_reference_s_differences(case):
  run, slow = case
  new, old, advantages, mask = tokens(3)
  _, (gradient, *others) = run(new, old, advantages, mask)
  expected = np.zeros(new.shape)
  for place in np.argwhere(mask):
    up, down = np.float64(new), np.float64(new)
    up[tuple(place)] += 1e-6
    down[tuple(place)] -= 1e-6
    change = by_row(slow, up, new, old, advantages, mask) - by_row(
      slow, down, new, old, advantages, mask
    )
    expected[tuple(place)] = change.sum() / 2e-6
  assert np.abs(expected).max() > 0.1
  np.testing.assert_allclose(gradient, expected, atol=1e-4)
  for other in others:
    np.testing.assert_array_equal(other, 0)


def test_padding_changes_nothing_and_gets_zero(case):
  run, _ = case
  new, old, advantages, mask = tokens(4)
  expected, (gradient, *_) = run(new, old, advantages, mask)
  for junk in (np.nan, np.inf, -np.inf, 1e30):
    spoilt = (np.where(mask, x, junk) for x in (new, old, advantages))
    actual, gradients = run(*spoilt, mask)
    for x, y in zip(actual, expected, strict=True):
      np.testing.assert_array_equal(x, y)
      np.testing.assert_array_equal(np.asarray(x)[~mask], 0)
    np.testing.assert_array_equal(gradients[0], gradient)
    np.testing.assert_array_equal(np.asarray(gradient)[~mask], 0)


def test_rows_permute_and_do_not_mix(case):
  run, _ = case
  batch = tokens(5)
  expected, _ = run(*batch)
  order = np.random.default_rng(0).permutation(ROWS)
  permuted, _ = run(*(x[order] for x in batch))
  np.testing.assert_allclose(permuted.loss, expected.loss[order], rtol=1e-6)
  other = [np.where(np.arange(ROWS)[:, None] < 3, x, 2 * x) for x in batch[:3]]
  changed, _ = run(*other, batch[3])
  np.testing.assert_array_equal(changed.loss[:3], expected.loss[:3])
  assert (changed.loss[3:] != expected.loss[3:]).any()


def test_gradients_are_finite_at_extreme_ratios(case):
  run, _ = case
  _, old, advantages, mask = tokens(6)
  rng = np.random.default_rng(0)
  for size in (30.0, 1e4, 1e30):
    new = old + np.float32(size) * rng.choice([-1, 1], old.shape)
    for pair in ((new, old), (old, new)):
      out, (gradient, *_) = run(*map(np.float32, pair), advantages, mask)
      assert np.isfinite(out.loss).all()
      assert np.isfinite(gradient).all()


def test_gradient_at_ratio_one_is_that_of_the_policy_gradient(case, request):
  if 'hapo' in request.node.name:
    pytest.skip('its advantages depend on entropy also at ratio 1')
  run, _ = case
  _, old, advantages, mask = tokens(7)
  _, (gradient, *_) = run(old, old, advantages, mask)
  expected = np.where(mask, -advantages, 0)
  np.testing.assert_allclose(gradient, expected, rtol=1e-5)


@pytest.mark.parametrize('name', SURROGATES)
def test_arrays_of_other_shapes_are_refused_when_traced(name):
  arrays = tokens(0)
  jax.eval_shape(SURROGATES[name], *arrays)
  for n in range(len(arrays)):
    for wrong in arrays[n][1:], arrays[n][None], arrays[n][:, :1]:
      with pytest.raises(AssertionError, match='Chex'):
        jax.eval_shape(SURROGATES[name], *arrays[:n], wrong, *arrays[n + 1 :])


def test_one_advantage_per_row_is_a_special_case():
  new, old, advantages, mask = tokens(8)
  fn = jax.jit(policy.clipped_surrogate)
  np.testing.assert_array_equal(
    fn(new, old, advantages, mask).loss,
    fn(new, old, advantages[:, 0], mask.astype(np.int32)).loss,
  )


@pytest.mark.parametrize(
  ('name', 'options', 'expected'),
  [
    ('clipped', {'dual_clip': 3.0}, [[0, 0, 0, 1, 1], [1, 0, 0, 0, 0]]),
    # In nats 0.9 is 0.105 away, and 1.1 is 0.095.
    (
      'gmpo',
      {'clip_high': 0.1, 'clip_low': 0.1},
      [[0, 0, 0, 1, 1], [1, 1, 0, 0, 0]],
    ),
    ('cispo', {'clip_high': 1.5, 'clip_low': 0.2}, [[1, 0, 0, 0, 1]] * 2),
  ],
)
def test_the_clip_fraction_counts_the_bounds_that_held(name, options, expected):
  change = np.log(np.float32([[0.5, 0.9, 1.1, 2.0, 4.0]] * 2))
  fn = jax.jit(functools.partial(SURROGATES[name], **options))
  out = fn(change, np.zeros_like(change), np.float32([1, -1]), change > -9)
  np.testing.assert_array_equal(out.clipped, expected)
  dual = [[0] * 5, [0, 0, 0, 0, name == 'clipped']]
  np.testing.assert_array_equal(out.dual_clipped, dual)


def test_the_mean_of_gspo_s_tokens_is_the_sequence_loss():
  new, old, advantages, mask = tokens(9, scale=0.01)
  lengths = mask.sum(axis=1)
  real = lengths > 0

  def of_tokens(new):
    out = SURROGATES['gspo'](new, old, advantages, mask, **TIGHT)
    return (out.loss.sum(axis=1) / np.maximum(lengths, 1)).sum()

  def of_sequences(new):
    log_s = jnp.where(mask, new - old, 0).sum(axis=1) / np.maximum(lengths, 1)
    return -(advantages[:, 0] * jnp.exp(log_s) * real).sum()

  actual = jax.jit(jax.value_and_grad(of_tokens))(new)
  expected = jax.jit(jax.value_and_grad(of_sequences))(new)
  for x, y in zip(actual, expected, strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


FILTERED = jax.jit(sequence.filtered, static_argnames='q')


def test_kalman_filter_by_hand():
  z = np.float32([[0, 0.1, 0, -0.2, 0.3]])
  mask = np.array([[0, 1, 0, 1, 1]])  # it passes over padding
  for q, gains, (first, *rest) in (
    (0.01, [0.009901, 0.019513, 0.028667], [0.000990, -0.002932, 0.005752]),
    (1.0, [0.5, 0.6, 0.615385], [0.05, -0.1, 0.146154]),
  ):
    np.testing.assert_allclose(sequence.kalman_gains(3, q=q), gains, atol=1e-6)
    np.testing.assert_allclose(
      FILTERED(z, mask, q=q), [[0, first, first, *rest]], atol=1e-6
    )
  with pytest.raises(ValueError, match='at least 0'):
    sequence.kalman_gains(3, q=-1.0)


def test_a_small_q_lets_little_of_a_constant_through():
  flat = np.ones((1, 1024), np.float32)
  found = FILTERED(flat, flat, q=1e-6)[0]
  expected = [0.005029, 0.118343, 0.364005]
  np.testing.assert_allclose(found[np.array([99, 511, 1023])], expected, 1e-3)


def test_dcpo_bounds_by_hand():
  q = np.float32([1, 0.9, 0.5, 0.1, 0.01])
  q = np.append(q, 1e-38)
  fn = functools.partial(dcpo.bounds, clip_low=0.2, clip_high=0.28, highest=3.0)
  low, high = jax.jit(fn)(np.log(q))
  np.testing.assert_allclose(
    low, [0.723607, 0.666667, 0.5, 0.5, 0.5, 0.5], 1e-4
  )
  expected = [1.228011, 1.249074, 1.4, 2.246425, 5.815073, 10]
  np.testing.assert_allclose(high, expected, 1e-5)


@pytest.mark.parametrize(
  ('name', 'options'),
  [
    ('clipped', {'dual_clip': 0.5}),
    ('dcpo', {'dual_clip': 1.0}),
    ('kpo', {'q': -1.0}),
    ('sapo', {'tau_negative': 0.0}),
  ],
)
def test_options_that_cannot_work_are_refused(name, options):
  with pytest.raises(ValueError, match='expected'):
    SURROGATES[name](*tokens(0), **options)


def test_no_bound_leaves_the_importance_weighted_gradient():
  new, old, advantages, mask = tokens(10)
  out = policy.clip_between(
    jnp.exp(policy.log_ratios(new, old, mask)),
    policy.per_token(advantages, mask),
    0.0,
    np.inf,
  )
  expected = np.where(mask, -advantages * np.exp(new - old), 0)
  np.testing.assert_allclose(out.loss, expected, rtol=1e-5)
