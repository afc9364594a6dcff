"""The train step against autodiff turn by turn, and its identities."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hgpo_jax import types
from hgpo_jax.model import lora, sharding
from hgpo_jax.sampler import scoring
from hgpo_jax.train import packing, update
from tests import workloads
from tests.small_decoder import small_model

TURNS, REPLY, VOCAB = 12, 3, 11
SHAPES = packing.Shapes(
  tokens=20, replies=9, turns=3, rows=2, reply=REPLY, choices=(2,)
)
ALONE = dataclasses.replace(SHAPES, turns=1)  # one turn per row


bigram = workloads.bigram_score


def params():
  return workloads.bigram_params(VOCAB)


def turns(count=TURNS, seed=0):
  rng = np.random.default_rng(seed)

  def tokens(most):
    return rng.integers(0, VOCAB, rng.integers(1, most + 1)).astype(np.int32)

  return [
    types.Turn(
      prompt=tokens(9),
      reply=tokens(REPLY),
      log_probs=np.zeros(0, np.float32),
      choices=(),
      observation='',
      action='',
      valid=True,
      reward=0.0,
    )
    for _ in range(count)
  ]


@functools.cache
def numbers():
  """Advantages and log-probs of all turns; the policy has not moved yet."""
  table = np.zeros((TURNS, REPLY), np.float32)
  for n, turn in enumerate(turns()):
    table[n, : len(turn.reply)] = log_probs_of(params(), turn)
  advantages = np.random.default_rng(0).normal(size=TURNS).astype(np.float32)
  return advantages, table, table - 0.1 * (table != 0)


def plan_of(found, shapes=SHAPES, order=None, micro=None):
  index = np.arange(len(found)) if order is None else order
  micro = micro or shapes.micro_batches(len(found))
  return packing.pack(packing.flatten(found, shapes), index, shapes, micro)


def batch(**layout):
  return plan_of(turns(), **layout).batch(*numbers())


def step(loss=None, sgd=1.0):
  loss = loss or update.PolicyLoss(kl_coef=0.0, entropy_coef=0.0)
  optimizer = optax.sgd(sgd)
  fn = update.make_train_step(bigram, loss, optimizer)
  return lambda b: fn(update.init_state(params(), optimizer), b)


def log_probs_of(p, turn):
  """Of one reply, token by token."""
  text = np.concatenate([turn.prompt, turn.reply])
  before = text[len(turn.prompt) - 1 : -1]
  logits = p['table'] + p['bias'][None]  # one shape for all
  log_probs = jax.nn.log_softmax(logits)
  return log_probs[before, turn.reply]


def assert_close(a, b, atol=1e-5):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, atol=atol)


def test_the_first_gradient_is_that_of_the_plain_policy_gradient():
  found = turns()
  advantages, _, _ = numbers()
  tokens = sum(len(t.reply) for t in found)

  def slow(p):
    terms = zip(found, advantages, strict=True)
    return -sum(a * log_probs_of(p, t).sum() for t, a in terms) / tokens

  state, scalars = step()(batch())
  expected = jax.tree.map(
    lambda p, g: p - g, params(), jax.grad(slow)(params())
  )
  assert_close(state.params, expected)
  assert float(scalars['ratio_error']) < 1e-5
  assert float(scalars['ratio_max']) == pytest.approx(1, abs=1e-5)
  assert float(scalars['kl_old']) == pytest.approx(0, abs=1e-9)
  assert float(scalars['clip_fraction']) == 0
  assert int(state.step) == 1


SHUFFLED = np.random.default_rng(3).permutation(TURNS)


LONGER = dataclasses.replace(SHAPES, tokens=60, replies=30, turns=7, rows=1)


@pytest.mark.parametrize(
  ('aggregation', 'layouts'),
  [
    (
      'token-mean',
      [{'shapes': ALONE}, {'shapes': LONGER, 'micro': 14}],
    ),
    ('seq-mean-token-mean', [{'shapes': ALONE}, {'order': SHUFFLED}]),
  ],
)
def test_how_turns_are_packed_changes_nothing(aggregation, layouts):
  run = step(update.PolicyLoss(aggregation=aggregation))
  expected = run(batch())
  for layout in layouts:
    assert_close(run(batch(**layout)), expected)


def test_the_scorer_scores_every_turn_and_no_padding():
  plan = plan_of(turns())
  found = update.make_scorer(bigram)(params(), plan.unlabelled())
  _, expected, _ = numbers()
  np.testing.assert_allclose(found, plan.spread(expected), atol=1e-6)


def test_the_largest_ratio_is_a_maximum_over_micro_batches():
  advantages, old, reference = numbers()
  old = old.copy()
  old[4, 0] -= 0.7
  plan = plan_of(turns(), ALONE)
  _, scalars = step()(plan.batch(advantages, old, reference))
  assert float(scalars['ratio_max']) == pytest.approx(np.exp(0.7), rel=1e-4)


def test_cloning_raises_the_replies_log_probs():
  state, scalars = step(update.CloningLoss(), sgd=0.5)(
    plan_of(turns()).unlabelled()
  )
  tokens = sum(len(t.reply) for t in turns())
  after = sum(log_probs_of(state.params, t).sum() for t in turns()) / tokens
  assert -after < float(scalars['loss'])


def test_the_entropy_bonus_flattens_and_the_reference_pulls_back():
  plan = plan_of(turns())
  _, old, _ = numbers()
  nothing = np.zeros(TURNS, np.float32)
  flat = plan.batch(nothing, old, old)
  flatten = update.PolicyLoss(kl_coef=0.0, entropy_coef=1.0)
  state, scalars = step(flatten, sgd=0.5)(flat)
  again = update.make_train_step(bigram, flatten, optax.sgd(0.0))
  _, after = again(update.init_state(state.params, optax.sgd(0.0)), flat)
  assert after['entropy'] > scalars['entropy']
  away = plan.batch(nothing, old, old + 1.0 * (old != 0))
  pull = update.PolicyLoss(kl_coef=1.0, entropy_coef=0.0)
  state, scalars = step(pull, sgd=0.1)(away)
  moved = sum(log_probs_of(state.params, t).sum() for t in turns())
  assert moved > old.sum()


MODEL = small_model(VOCAB, 8, 16, 2, 2, 1, 4)


def model_score(model, chunk=3):
  return lambda p, rows: scoring.score(model, p, rows, chunk=chunk)


@pytest.fixture(scope='module')
def model_params():
  return workloads.random_params(MODEL)


MODEL_STEP = update.make_train_step(
  model_score(MODEL), update.PolicyLoss(), optax.sgd(1.0)
)


def model_step(params, **layout):
  """One update of the real model; what it returns does not depend on layout."""
  data = plan_of(turns(), **layout).batch(*numbers())
  copy = jax.tree.map(jnp.copy, params)
  state, scalars = MODEL_STEP(update.init_state(copy, optax.sgd(1.0)), data)
  return jax.device_get((state.params, scalars))


@pytest.fixture(scope='module')
def expected(model_params):
  return model_step(model_params)


def test_packed_is_unpacked_for_the_real_model(model_params, expected):
  """Loss and gradient, in float32; with neighbours, segments and `at`."""
  assert expected[1]['grad_norm'] > 0.1
  assert_close(model_step(model_params, shapes=ALONE), expected)
  assert_close(model_step(model_params, order=SHUFFLED), expected)


def test_rows_on_several_devices_change_nothing(model_params, expected):
  """Gradient accumulation over two micro-batches whose rows are split."""
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  shapes = dataclasses.replace(ALONE, rows=8)
  with jax.set_mesh(mesh):
    shardings = sharding.param_shardings(mesh, model_params, MODEL)
    placed = jax.device_put(model_params, shardings)
    assert_close(model_step(placed, shapes=shapes), expected)


def test_only_adapters_change_and_the_frozen_params_live_on(model_params):
  model = MODEL.replace(lora=lora.Lora(2, 4.0))
  adapters, _ = lora.split(workloads.random_params(model))
  optimizer = optax.adamw(0.1)
  state = update.init_state(adapters, optimizer, frozen=model_params)
  assert len(jax.tree.leaves(state.opt_state)) == 2 * 14 + 1  # and a count
  score = model_score(model)
  fn = update.make_train_step(score, update.CloningLoss(), optimizer)
  data = plan_of(turns()).unlabelled()
  before = jax.tree.map(np.array, (adapters, model_params))
  losses = []
  for _ in range(3):
    state, scalars = fn(state, data)
    losses.append(float(scalars['loss']))
  assert losses[2] < losses[0]
  assert state.frozen is model_params  # not given away with the old state
  assert_close(state.frozen, before[1], atol=0)
  for old, new in zip(
    jax.tree.leaves(before[0]), jax.tree.leaves(state.params), strict=True
  ):
    assert (old != new).any()


def test_the_norm_that_is_logged_is_the_gradients():
  """Of the whole mini-batch, and before the optimiser does anything to it."""
  state, scalars = step(sgd=0.5)(batch())
  gradient = jax.tree.map(lambda x, y: (x - y) / 0.5, params(), state.params)
  norm = float(optax.tree.norm(gradient))
  assert float(scalars['grad_norm']) == pytest.approx(norm, rel=1e-4)
