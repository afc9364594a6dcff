"""Scoring packed rows: the numbers of decoding, a slice of logits at a time."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hgpo_jax import types
from hgpo_jax.model.interface import Model
from hgpo_jax.sampler import sampling, scoring
from hgpo_jax.train import packing
from tests import workloads
from tests.small_decoder import small_model

MODEL = small_model(40, 16, 32, 2, 4, 2, 4)
END, R = 1, 5
SHAPES = packing.Shapes(
  tokens=32, replies=12, turns=4, rows=2, reply=R, choices=(4,)
)
LIMITED = [
  ((20, 21, END), (20, 22, 23, END), (24, END)),
  ((30, END), (31, END), (31, 32, END)),
  ((25, 26, END),),  # forced from its first token to its last
  (),  # anything goes
]
REPLIES = [(20, 22, 23, END), (31, END), (25, 26, END), (33, 34, 35, 36, 37)]
PROMPTS = [(5, 6, 7), (8, 9, 10, 11, 12, 13), (14,), (15, 16, 17, 18)]


@pytest.fixture(scope='module')
def params():
  return workloads.random_params(MODEL)


def turns(limited=True):
  return [
    types.Turn(
      prompt=np.array(prompt, np.int32),
      reply=np.array(reply, np.int32),
      log_probs=np.zeros(len(reply), np.float32),
      choices=choices if limited else (),
      observation='',
      action='',
      valid=True,
      reward=0.0,
    )
    for prompt, reply, choices in zip(PROMPTS, REPLIES, LIMITED, strict=True)
  ]


def plan_of(found, shapes=SHAPES):
  flat = packing.flatten(found, shapes)
  return packing.pack(flat, np.arange(len(found)), shapes, 1)


prefill = jax.jit(Model.prefill, static_argnums=0)
decode = jax.jit(Model.decode, static_argnums=0)
unembed = jax.jit(Model.logits, static_argnums=0)
judge = jax.jit(sampling.scored_log_probs)


@functools.partial(jax.jit, static_argnames='chunk')
def score(params, rows, temperature=1.0, chunk=12):
  return scoring.score(
    MODEL, params, rows, temperature=temperature, chunk=chunk
  )


def scored(params, plan, **options):
  """Log-probs and entropies of each turn, as lists in the turns' order."""
  rows = jax.tree.map(lambda x: x[0], plan.rows)
  scores = score(params, rows, **options)
  out = {}
  for n in np.flatnonzero(plan.turn[0] >= 0):
    place = plan.place[0, n][plan.place[0, n] >= 0]
    row = n // SHAPES.turns
    out[int(plan.turn[0, n])] = (
      np.asarray(scores.log_probs)[row, place],
      np.asarray(scores.entropy)[row, place],
    )
  return [out[i] for i in range(len(out))], scores


def decoded(params, turn, temperature):
  """The same by prefill, then one step per token."""
  length = len(turn.prompt)
  prompt = np.pad(turn.prompt, (0, 16 - length))[None]
  hidden, cache = prefill(MODEL, params, prompt, np.array([length]))
  log_probs, entropy = [], []
  for r, token in enumerate(turn.reply):
    said = tuple(turn.reply[:r])
    nexts = {c[r] for c in turn.choices if c[:r] == said and len(c) > r}
    allowed = np.isin(np.arange(MODEL.config.vocab_size), list(nexts)) | (
      not nexts
    )
    logits = unembed(MODEL, params, hidden)[0]
    values = np.asarray(judge(logits, temperature, allowed), np.float64)
    log_probs.append(values[token])
    entropy.append(-(np.exp(values) * values).sum())
    hidden, cache = decode(MODEL, params, token[None], cache)
  return log_probs, entropy


@pytest.mark.parametrize('temperature', [1.0, 0.4])
@pytest.mark.parametrize('limited', [False, True], ids=['free', 'limited'])
def test_equals_decoding_token_by_token(params, temperature, limited):
  found = turns(limited)
  pairs, scores = scored(params, plan_of(found), temperature=temperature)
  for (log_probs, entropy), turn in zip(pairs, found, strict=True):
    expected = decoded(params, turn, temperature)
    np.testing.assert_allclose(log_probs, expected[0], atol=1e-5)
    np.testing.assert_allclose(entropy, expected[1], atol=1e-5)
  assert min(float(p[0].min()) for p in pairs) < -0.1  # not all the same
  padding = plan_of(found).rows.targets[0] < 0
  assert (scores.log_probs[padding] == 0).all()
  assert (scores.entropy[padding] == 0).all()


def test_neither_neighbours_nor_places_matter(params):
  alone = packing.Shapes(32, 12, 1, 4, R, (4,))  # one turn per row
  rows = jax.tree.map(lambda x: x[0], plan_of(turns(), alone).rows)
  expected = score(params, rows)
  pairs, _ = scored(params, plan_of(turns()))
  order = plan_of(turns(), alone).turn[0]
  for row, n in enumerate(order):
    log_probs, entropy = pairs[n]
    np.testing.assert_allclose(
      log_probs, expected.log_probs[row, : len(log_probs)], atol=1e-5
    )
    np.testing.assert_allclose(
      entropy, expected.entropy[row, : len(entropy)], atol=1e-5
    )


@functools.partial(jax.jit, static_argnums=3)
def grad(params, rows, keep, chunk):
  return jax.grad(total)(params, rows, keep, chunk)


def total(params, rows, keep, chunk):
  scores = scoring.score(MODEL, params, rows, chunk=chunk)
  return jnp.sum(keep * (scores.log_probs + 0.3 * scores.entropy))


def test_chunks_change_neither_scores_nor_gradients(params):
  chunk = 4
  rows = jax.tree.map(lambda x: x[0], plan_of(turns()).rows)
  whole = score(params, rows)
  for a, b in zip(
    jax.tree.leaves(whole),
    jax.tree.leaves(score(params, rows, chunk=chunk)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, atol=1e-5)
  for a, b in zip(
    jax.tree.leaves(grad(params, rows, 1.0, 12)),
    jax.tree.leaves(grad(params, rows, 1.0, chunk)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, atol=1e-4)
  with pytest.raises(ValueError, match='12 reply places in chunks of 5'):
    score(params, rows, chunk=5)


def test_forced_tokens_score_0_without_gradient(params):
  plan = plan_of(turns())
  rows = jax.tree.map(lambda x: x[0], plan.rows)
  pairs, _ = scored(params, plan)
  assert (pairs[2][0] == 0).all()
  assert (pairs[2][1] == 0).all()
  n = int(np.flatnonzero(plan.turn[0] == 2)[0])
  forced = np.zeros((2, 12), bool)
  forced[n // 4, plan.place[0, n][plan.place[0, n] >= 0]] = True
  gradient = grad(params, rows, forced, 12)
  assert all((g == 0).all() for g in jax.tree.leaves(gradient))
  gradient = grad(params, rows, ~forced, 12)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
  assert any((g != 0).any() for g in jax.tree.leaves(gradient))


def sizes_in(jaxpr):
  """Number of elements of every array that a program computes."""
  for equation in jaxpr.eqns:
    for out in equation.outvars:
      yield math.prod(out.aval.shape)
    for inner in jax.tree.leaves(
      equation.params, is_leaf=lambda x: hasattr(x, 'eqns')
    ):
      inner = getattr(inner, 'jaxpr', inner)
      if hasattr(inner, 'eqns'):
        yield from sizes_in(inner)


@pytest.mark.parametrize('limited', [False, True])
def test_logits_are_never_held_whole(limited):
  model = small_model(5003, 8, 16, 2, 2, 1, 4, dtype='bfloat16')
  shapes = packing.Shapes(64, 48, 4, 2, R, (4,))
  rows = jax.tree.map(lambda x: x[0], plan_of(turns(limited), shapes).rows)
  params = model.param_shapes()

  def largest(chunk):
    def loss(params):
      scores = scoring.score(model, params, rows, chunk=chunk)
      return jnp.sum(scores.log_probs + scores.entropy)

    jaxpr = jax.make_jaxpr(jax.value_and_grad(loss))(params)
    return max(sizes_in(jaxpr.jaxpr))

  assert largest(48) == 2 * 48 * 5003  # so the walk sees what there is
  table = 8 * 5003
  assert largest(4) == max(table, 2 * 4 * 5003)
