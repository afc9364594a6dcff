"""Sampling: identities between methods, and a trie that is never left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hgpo_jax.sampler import sampling
from hgpo_jax.sampler.sampling import Sampling

B, V = 4, 12


@pytest.fixture(scope='module')
def logits():
  return 3 * jax.random.normal(jax.random.key(0), (B, V))


def probabilities(logits, method, allowed=None):
  scored = sampling.scored_log_probs(logits, method.scored_temperature, allowed)
  return jax.nn.softmax(sampling.process(scored, method), axis=-1)


def test_temperature_divides_logits(logits):
  actual = sampling.scored_log_probs(logits, 0.4)
  np.testing.assert_allclose(actual, jax.nn.log_softmax(logits / 0.4))


def test_greedy_is_scored_at_temperature_1():
  assert sampling.greedy() == Sampling(temperature=0.0)
  assert sampling.greedy().scored_temperature == 1.0
  assert Sampling(0.4).scored_temperature == 0.4


def test_top_1_is_greedy(logits):
  expected = jax.nn.one_hot(logits.argmax(-1), V)
  for method in (sampling.greedy(), Sampling(top_k=1), Sampling(top_p=1e-6)):
    np.testing.assert_array_equal(probabilities(logits, method), expected)


def test_widest_truncation_is_none(logits):
  plain = probabilities(logits, Sampling(0.7))
  for method in (Sampling(0.7, top_p=1.0), Sampling(0.7, top_k=V)):
    np.testing.assert_array_equal(probabilities(logits, method), plain)


@pytest.mark.parametrize(('top_k', 'top_p'), [(3, None), (None, 0.8), (5, 0.6)])
def test_truncation_matches_numpy_loop(logits, top_k, top_p):
  actual = probabilities(logits, Sampling(top_k=top_k, top_p=top_p))
  for row, probs in zip(actual, jax.nn.softmax(logits), strict=True):
    probs = np.array(probs)
    order = np.argsort(-probs)[:top_k]
    inside = probs[order] / probs[order].sum()
    held = np.cumsum(inside) - inside
    kept = order[held < (top_p or 2)]
    expected = np.zeros(V)
    expected[kept] = probs[kept] / probs[kept].sum()
    np.testing.assert_allclose(row, expected, atol=1e-6)


def test_draws_follow_the_distribution(logits):
  n = 20_000
  keys = jax.random.split(jax.random.key(1), n)
  probs = jax.nn.softmax(logits[0])
  tokens = sampling.draw(keys, jnp.broadcast_to(jnp.log(probs), (n, V)))
  share = np.bincount(tokens, minlength=V) / n
  np.testing.assert_allclose(share, probs, atol=4 * np.sqrt(0.25 / n))


def test_draw_never_hits_an_impossible_token():
  """Also where the uniform number is next to the ends of its range."""
  n, vocab = 5_000, 300
  allowed = jnp.arange(vocab) % 100 == 37
  log_probs = jnp.where(allowed, 0.0, sampling.MASKED)
  keys = jax.random.split(jax.random.key(2), n)
  tokens = sampling.draw(keys, jnp.broadcast_to(log_probs, (n, vocab)))
  assert set(np.unique(tokens)) == {37, 137, 237}


def test_draw_depends_on_its_own_row_alone(logits):
  keys = jax.random.split(jax.random.key(3), B)
  tokens = sampling.draw(keys, logits)
  order = jnp.array([2, 0, 3, 1])
  shuffled = sampling.draw(keys[order], logits[order])
  np.testing.assert_array_equal(shuffled, tokens[order])


def random_choices(seed, rows=3, width=4, length=4):
  """Lists of replies over a few tokens, so that prefixes are shared."""
  rng = np.random.default_rng(seed)
  replies = [
    [[*rng.integers(2, 5, rng.integers(1, length)), 1] for _ in range(width)]
    for _ in range(rows)
  ]
  packed = np.full((rows, width + 1, length), -1, np.int32)
  for i, row in enumerate(replies):
    for j, reply in enumerate(row):
      packed[i, j, : len(reply)] = reply
  return replies, jnp.array(packed)


@pytest.mark.parametrize('seed', range(3))
def test_allowed_tokens_match_a_search_of_prefixes(seed):
  replies, choices = random_choices(seed)
  for target in range(4):  # follow one reply of every row to its end
    open_ = sampling.start_choices(choices)
    for position in range(choices.shape[2]):
      allowed = sampling.allowed_tokens(choices, open_, position, V)
      for row, mask in zip(replies, allowed, strict=True):
        prefix = row[target][:position]
        expected = {
          r[position]
          for r in row
          if len(r) > position and r[:position] == prefix
        }
        expected = expected or set(range(V))  # past the end of the reply
        assert set(np.flatnonzero(mask)) == expected
      open_ = sampling.advance_choices(
        choices, open_, position, choices[:, target, position]
      )


def test_row_without_choices_may_say_anything():
  choices = jnp.full((2, 3, 4), -1).at[0, 0, :2].set(jnp.array([5, 1]))
  open_ = sampling.start_choices(choices)
  allowed = sampling.allowed_tokens(choices, open_, 0, V)
  np.testing.assert_array_equal(allowed[0], np.arange(V) == 5)
  assert allowed[1].all()


def test_single_allowed_token_scores_exactly_0(logits):
  allowed = jnp.arange(V)[None] == jnp.array([3, 0, V - 1, 5])[:, None]
  scored = sampling.scored_log_probs(logits, 0.4, allowed)
  assert (scored[allowed] == 0).all()


@pytest.mark.parametrize(
  'fields', [{'temperature': -1}, {'top_k': 0}, {'top_p': 0}, {'top_p': 1.5}]
)
def test_impossible_methods_are_refused(fields):
  with pytest.raises(ValueError, match=next(iter(fields))):
    Sampling(**fields)
