"""The train step against autodiff on the whole batch, and its identities."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hgpo_jax import types
from hgpo_jax.train import update

ROWS, REPLY, VOCAB = 8, 3, 11


def score(params, tokens, valid, choices):
  """A bigram model: enough of a policy for the learner."""
  del valid, choices
  logits = params['table'][tokens[:, -REPLY - 1 : -1]] + params['bias']
  log_probs = jax.nn.log_softmax(logits)
  chosen = jnp.take_along_axis(log_probs, tokens[:, -REPLY:, None], axis=-1)
  entropy = -(jnp.exp(log_probs) * log_probs).sum(-1)
  return SimpleNamespace(log_probs=chosen[..., 0], entropy=entropy)


def params(seed=0):
  table = jax.random.normal(jax.random.key(seed), (VOCAB, VOCAB))
  return {'table': table, 'bias': jnp.zeros(VOCAB)}


def batch(rows=ROWS, real=6, seed=0):
  rng = np.random.default_rng(seed)
  valid = np.zeros((rows, 4 + REPLY), bool)
  for row in range(real):
    valid[row, : 4 + rng.integers(1, REPLY + 1)] = True
  tokens = rng.integers(0, VOCAB, valid.shape).astype(np.int32)
  chosen = score(params(), jnp.asarray(tokens), None, None).log_probs
  return types.Batch(
    tokens=tokens,
    valid=valid,
    choices=np.zeros((rows, 0, REPLY), np.int32),
    old_log_probs=np.asarray(chosen),
    ref_log_probs=np.asarray(chosen),
    advantages=rng.normal(size=rows).astype(np.float32),
    mask=np.arange(rows) < real,
  )


def step(loss=None, micro=2, sgd=1.0):
  loss = loss or update.PolicyLoss(kl_coef=0.0, entropy_coef=0.0)
  optimizer = optax.sgd(sgd)
  fn = update.make_train_step(score, loss, optimizer, micro)
  return lambda *b: fn(update.init_state(params(), optimizer), b)


def test_the_first_gradient_is_that_of_the_plain_policy_gradient():
  data = batch()
  mask = np.asarray(update.reply_mask(data))

  def slow(p):
    chosen = score(p, jnp.asarray(data.tokens), None, None).log_probs
    return -(chosen * data.advantages[:, None] * mask).sum() / mask.sum()

  state, scalars = step()(data)
  expected = jax.tree.map(
    lambda p, g: p - g, params(), jax.grad(slow)(params())
  )
  for name in expected:
    np.testing.assert_allclose(state.params[name], expected[name], atol=1e-5)
  assert float(scalars['ratio_error']) < 1e-5
  assert float(scalars['kl_ref']) == pytest.approx(0, abs=1e-9)
  assert float(scalars['clip_fraction']) == 0
  assert int(state.step) == 1


@pytest.mark.parametrize('aggregation', ['token-mean', 'seq-mean-token-mean'])
def test_micro_batches_change_nothing(aggregation):
  loss = update.PolicyLoss(aggregation=aggregation)
  whole, one = step(loss, micro=ROWS)(batch())
  parts, many = step(loss, micro=2)(batch())
  for a, b in zip(
    jax.tree.leaves((whole, one)), jax.tree.leaves((parts, many)), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_mini_batch_in_two_parts_is_the_same_mini_batch():
  data = batch(real=ROWS)
  whole = step()(data)
  halves = [jax.tree.map(lambda x, h=h: x[h::2], data) for h in (0, 1)]
  for a, b in zip(
    jax.tree.leaves(whole), jax.tree.leaves(step()(*halves)), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_scorer_scores_every_row_and_no_padding():
  data = batch()
  (log_probs,) = update.make_scorer(score, 2)(params(), (data,))
  np.testing.assert_allclose(log_probs[:6], data.old_log_probs[:6], atol=1e-6)
  assert not np.asarray(log_probs[6:]).any()


def test_padding_changes_nothing():
  data = batch()
  grown = jax.tree.map(
    lambda x: np.concatenate([x, np.zeros((4, *x.shape[1:]), x.dtype)]), data
  )
  state, scalars = step()(data)
  other, others = step()(grown)
  for a, b in zip(
    jax.tree.leaves((state, scalars)),
    jax.tree.leaves((other, others)),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


def test_cloning_raises_the_replies_log_probs():
  data = batch()
  mask = np.asarray(update.reply_mask(data))
  state, scalars = step(update.CloningLoss(), sgd=0.5)(data)
  after = score(state.params, jnp.asarray(data.tokens), None, None).log_probs
  assert -(after * mask).sum() / mask.sum() < float(scalars['loss'])


def test_the_entropy_bonus_flattens_and_the_reference_pulls_back():
  flat = batch()
  flat = flat.replace(advantages=np.zeros(ROWS, np.float32))
  loss = update.PolicyLoss(kl_coef=0.0, entropy_coef=1.0)
  state, scalars = step(loss, sgd=0.5)(flat)
  mask = np.asarray(update.reply_mask(flat))
  after = score(state.params, jnp.asarray(flat.tokens), None, None).entropy
  assert (after * mask).sum() / mask.sum() > float(scalars['entropy'])
  away = flat.replace(ref_log_probs=flat.ref_log_probs + 1.0)
  pull = update.PolicyLoss(kl_coef=1.0, entropy_coef=0.0)
  state, scalars = step(pull, sgd=0.1)(away)
  again = score(state.params, jnp.asarray(flat.tokens), None, None).log_probs
  assert ((again - flat.old_log_probs) * mask).sum() > 0


def test_decay_spares_norms_and_biases():
  tree = {
    'layers': {
      'attention_norm': {'scale': 1},
      'q_proj': {'bias': 1, 'kernel': 1},
    },
    'embed': 1,
  }
  assert update.decay_mask(tree) == {
    'layers': {
      'attention_norm': {'scale': False},
      'q_proj': {'bias': False, 'kernel': True},
    },
    'embed': True,
  }


def test_the_schedule_warms_up_and_decays():
  optimizer = update.make_optimizer(
    learning_rate=1.0,
    warmup_steps=4,
    decay_steps=10,
    weight_decay=0.0,
    clip_norm=1e9,
    b1=0.0,
    b2=0.0,
  )
  weights = {'w': jnp.ones(())}
  state, sizes = optimizer.init(weights), []
  for _ in range(15):
    updates, state = optimizer.update({'w': jnp.ones(())}, state, weights)
    sizes.append(-float(updates['w']))
  np.testing.assert_allclose(sizes[:5], [0.2, 0.4, 0.6, 0.8, 1.0], atol=1e-3)
  np.testing.assert_allclose(sizes[14], 0.1, atol=1e-3)
