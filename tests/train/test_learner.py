"""The learner's half of an iteration, on invented episodes."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.configs import base as base_lib
from experiments.configs import toy
from hgpo_jax import types
from hgpo_jax.train import batching, packing, update
from hgpo_jax.train.compilations import Compilations
from hgpo_jax.train.learner import Learner
from tests import workloads

VOCAB, REPLY = 24, 3
SHAPES = packing.Shapes(
  tokens=24, replies=9, turns=4, rows=4, reply=REPLY, choices=(4,)
)


def make_learner(shapes=SHAPES, reference=None, epochs=1, **loss):
  c = toy.get_config().unlock()
  c.algo.estimator = 'grpo'  # one that compiles fast
  c.optim.minibatch_turns = 64
  c.optim.epochs = epochs
  c.loss.update(loss)
  return Learner(base_lib.freeze(c), workloads.bigram_score, shapes, reference)


def episodes(seed):
  """Two groups of four episodes of up to 4 turns."""
  rng = np.random.default_rng(seed)
  made = []
  for e in range(8):
    turns = []
    for t in range(rng.integers(1, 5)):
      reply = tuple(rng.integers(1, VOCAB, rng.integers(1, REPLY + 1)).tolist())
      turns.append(
        types.Turn(
          prompt=rng.integers(0, VOCAB, rng.integers(2, 16)).astype(np.int32),
          reply=np.array(reply, np.int32),
          log_probs=-np.ones(len(reply), np.float32),
          choices=(),
          observation=str(t),
          action=str(reply),
          valid=True,
          reward=float(rng.integers(2)),
        )
      )
    made.append(types.Trajectory(e // 4, tuple(turns), False, False))
  return made


def turns_of(made):
  return [turn for t in made for turn in t.turns]


def resampled(made, table):
  """The same episodes with the log-probs of a `[n, R]` table."""
  rows = iter(table)
  return [
    dataclasses.replace(
      t,
      turns=tuple(
        dataclasses.replace(u, log_probs=next(rows)[: len(u.reply)])
        for u in t.turns
      ),
    )
    for t in made
  ]


@pytest.fixture(scope='module')
def base():
  return workloads.bigram_params(VOCAB)


def test_log_probs_stand_in_the_turns_own_order(base):
  turns = turns_of(episodes(0))
  packed = make_learner().log_probs(base, turns)
  alone = dataclasses.replace(SHAPES, turns=1)
  np.testing.assert_allclose(
    packed, make_learner(shapes=alone).log_probs(base, turns), atol=1e-5
  )
  said = np.arange(REPLY) < [[len(t.reply)] for t in turns]
  assert (packed[~said] == 0).all()
  assert (packed[said] < -0.01).any()
  assert (packed[said] > -50).all()


def test_a_sampler_that_differs_is_reported(base):
  made = episodes(0)
  scored = make_learner().log_probs(base, turns_of(made))
  noise = np.random.default_rng(0).normal(0, 0.2, scored.shape)
  d = np.where(scored != 0, noise, 0)
  made = resampled(made, (scored - d).astype(np.float32))
  tokens = sum(len(t.reply) for t in turns_of(made))
  expected = {
    'sampler_kl': (np.exp(d) - d - 1).sum() / tokens,
    'sampler_ratio_max': np.exp(np.abs(d).max()),
  }
  # One mini-batch: what the first one sees is all there is.
  for how in ('sampler', 'score'):
    learner = make_learner(old_log_probs=how)
    copy = jax.tree.map(lambda x: x.copy(), base)
    state = update.init_state(copy, learner.optimizer)
    _, scalars = learner.update(state, base, made, (0, 0))
    for name, value in expected.items():
      assert scalars[name] == pytest.approx(value, rel=1e-3), (how, name)
    moved = scalars['first_ratio_error'] > 1e-3
    assert moved == (how == 'sampler')
    assert scalars['cut_turns'] == 0
    assert 0 < scalars['real_tokens'] <= 1


def test_every_epoch_has_an_order_of_its_own(base, monkeypatch):
  seeds, minibatches = [], batching.minibatches

  def noted(rows, size, seed):
    seeds.append(seed)
    return minibatches(rows, size, seed)

  monkeypatch.setattr(batching, 'minibatches', noted)
  learner = make_learner(epochs=3, old_log_probs='score')
  copy = jax.tree.map(lambda x: x.copy(), base)
  state = update.init_state(copy, learner.optimizer)
  state, scalars = learner.update(state, base, episodes(0), (0, 5))
  assert seeds == [(0, 5, 0), (0, 5, 1), (0, 5, 2)]
  assert int(state.step) == 3
  # Nothing has moved at first; the largest ratio is that of a later step.
  assert scalars['first_ratio_error'] < 1e-5 < scalars['ratio_error']
  assert scalars['ratio_max'] > 1.001


def test_everything_is_compiled_in_the_first_iteration(base):
  def reference(params, rows):  # another model, as without adapters
    return workloads.bigram_score(params, rows)

  learner = make_learner(reference=reference, old_log_probs='score')
  bias = {'bias': base['bias'].copy()}
  frozen = {'table': base['table']}
  state = update.init_state(bias, learner.optimizer, frozen)
  counts = []
  for iteration in range(4):
    with Compilations() as compilations:
      made = episodes(iteration)
      state, scalars = learner.update(state, base, made, (0, iteration))
    counts.append(compilations.count)
  assert counts[0] > 0
  assert counts[1:] == [0, 0, 0]
  assert int(state.step) == 4
  assert np.isfinite(list(scalars.values())).all()
