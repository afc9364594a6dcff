"""The critic's values, and the advantages that follow from them."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from experiments.configs import base, toy
from hgpo_jax import types
from hgpo_jax.model import sharding, values
from hgpo_jax.train import critic, packing, update
from hgpo_jax.train.compilations import Compilations
from hgpo_jax.train.learner import Learner
from tests import workloads
from tests.small_decoder import small_model

VOCAB, REPLY = 24, 3
SHAPES = packing.Shapes(
  tokens=24, replies=9, turns=4, rows=4, reply=REPLY, choices=(4,)
)


def worth(params, rows):
  """A critic that looks at one token, that before each reply token."""
  tokens = jax.numpy.take_along_axis(rows.tokens, rows.at, axis=1)
  return jax.numpy.where(rows.targets >= 0, params['worth'][tokens], 0)


def config(**ppo):
  c = toy.get_config().unlock()
  c.algo.estimator = 'ppo'
  c.algo.update(gamma=0.9, reward_scale=2.0, invalid_penalty=0.1)
  c.algo.ppo.update(lam=0.8, **ppo)
  c.optim.minibatch_turns = 64
  return base.freeze(c)


@functools.cache
def make_learner(**ppo):
  return Learner(config(**ppo), workloads.bigram_score, SHAPES, values=worth)


def make_state(learner, seed=0):
  params = workloads.bigram_params(VOCAB, seed)
  own = {'worth': jax.random.normal(jax.random.key(seed), (VOCAB,))}
  return dataclasses.replace(
    update.init_state(params, learner.optimizer),
    critic=update.init_state(own, learner.critic_optimizer),
  )


def episodes(seed):
  """Eight episodes of up to 4 turns; every other one was cut short."""
  rng = np.random.default_rng(seed)
  made = []
  for e in range(8):
    turns = []
    for _ in range(rng.integers(1, 5)):
      reply = rng.integers(1, VOCAB, rng.integers(1, REPLY + 1))
      turns.append(
        types.Turn(
          prompt=rng.integers(0, VOCAB, rng.integers(2, 16)).astype(np.int32),
          reply=reply.astype(np.int32),
          log_probs=-np.ones(len(reply), np.float32),
          choices=(),
          observation='',
          action='',
          valid=bool(rng.integers(4)),
          reward=float(rng.normal()),
        )
      )
    made.append(types.Trajectory(e // 4, tuple(turns), False, bool(e % 2)))
  return made


def estimated(learner, state, made):
  """Asks the critic alone, with every turn in one mini-batch."""
  turns = [turn for t in made for turn in t.turns]
  flat = packing.flatten(turns, SHAPES)
  order = np.random.default_rng(0).permutation(len(turns))
  plan = packing.pack(flat, order, SHAPES, SHAPES.micro_batches(len(turns)))
  return learner._estimator.estimate(made, state, [plan])


def slow_gae(table, made, level, bootstrap):
  """Per episode and step, from the last to the first."""
  gamma, lam, width = 0.9, 0.8, REPLY if level == 'token' else 1
  advantages, targets = [], []
  for trajectory in made:
    steps, place = [], []
    for n, turn in enumerate(trajectory.turns):
      text = np.concatenate([turn.prompt, turn.reply])
      before = text[len(turn.prompt) - 1 : -1][:width]
      reward = 2.0 * turn.reward - 0.1 * (not turn.valid)
      for i, token in enumerate(before):
        steps.append((table[token], reward * (i == len(before) - 1)))
        place.append((n, i))
    a = 0.0
    following = steps[-1][0] * (bootstrap and trajectory.truncated)
    own = np.zeros((2, len(trajectory.turns), width))
    for (v, r), (n, i) in zip(steps[::-1], place[::-1], strict=True):
      a = r + gamma * following - v + gamma * lam * a
      own[:, n, i] = a, a + v
      following = v
    advantages.append(own[0])
    targets.append(own[1])
  return np.concatenate(advantages), np.concatenate(targets)


LEARNERS = [{'level': level} for level in ('turn', 'token')]
CUT_SHORT = {'level': 'turn', 'bootstrap_truncated': True}


@pytest.mark.parametrize('options', [*LEARNERS, CUT_SHORT])
def test_advantages_match_a_loop(options):
  level, bootstrap = options['level'], 'bootstrap_truncated' in options
  learner = make_learner(**options)
  state, made = make_state(learner), episodes(0)
  found = estimated(learner, state, made)
  table = np.asarray(state.critic.params['worth'], np.float64)
  raw, targets = slow_gae(table, made, level, bootstrap)
  np.testing.assert_allclose(found.targets, targets, atol=1e-5)
  sizes = [[len(u.reply)] for t in made for u in t.turns]
  mask = np.arange(raw.shape[1]) < np.minimum(sizes, raw.shape[1])
  expected = (raw - raw[mask].mean()) / raw[mask].std(ddof=1) * mask
  shape = (len(mask),) if level == 'turn' else mask.shape
  assert found.advantages.shape == shape
  np.testing.assert_allclose(
    found.advantages.reshape(mask.shape), expected, atol=1e-5
  )
  v, g = found.values[mask], targets[mask]
  assert found.scalars['value_mean'] == pytest.approx(v.mean(), abs=1e-6)
  assert found.scalars['explained_variance'] == pytest.approx(
    1 - np.var(g - v) / np.var(g), abs=1e-5
  )


def test_explained_variance_at_its_ends():
  g = np.array([1.0, 2.0, 4.0])
  assert critic.explained_variance(g, g) == 1
  assert critic.explained_variance(np.ones(3), g) == pytest.approx(0)
  assert np.isnan(critic.explained_variance(g, np.ones(3)))


def test_nothing_is_compiled_after_the_first_iteration():
  learner = make_learner(level='token')
  state = make_state(learner)
  reference = workloads.bigram_params(VOCAB)
  counts = []
  for iteration in range(3):
    with Compilations() as compilations:
      state, scalars = learner.update(
        state, reference, episodes(iteration), (0, iteration)
      )
    counts.append(compilations.count)
  assert counts[0] > 0
  assert counts[1:] == [0, 0]
  assert int(state.step) == int(state.critic.step) == 3
  assert np.isfinite(list(scalars.values())).all()
  assert {'value_loss', 'value_grad_norm', 'ratio_max'} <= scalars.keys()


def test_a_group_estimator_has_no_critic():
  c = config()
  algo = dataclasses.replace(c.algo, estimator='grpo')
  c = dataclasses.replace(c, algo=algo)
  learner = Learner(c, workloads.bigram_score, SHAPES)
  assert learner.critic_optimizer is None
  lost = make_learner()
  with pytest.raises(ValueError, match="the critic's optimizer"):
    lost.advantages(episodes(0), (0,))


MODEL = small_model(VOCAB, 8, 16, 2, 2, 1, 4, tied_head=False)


def model_values():
  """A critic of the real model, and its params."""
  backbone, head = values.init_params(workloads.random_params(MODEL))
  assert 'head' not in backbone
  assert not head[values.HEAD].any()
  head = {values.HEAD: jax.random.normal(jax.random.key(0), (8,))}
  return functools.partial(values.values, MODEL), {**backbone, **head}


def test_a_value_is_what_the_text_before_a_token_gives():
  """Whatever lies beside it in a row, and nowhere else."""
  fn, params = model_values()
  turns = [turn for t in episodes(0) for turn in t.turns][:6]
  flat = packing.flatten(turns, SHAPES)
  plan = packing.pack(flat, np.arange(6), SHAPES, 2)
  found = packing.gathered(
    [plan], [update.make_reader(fn)(params, plan.unlabelled())], 6
  )
  for turn, row in zip(turns, found, strict=True):
    text = np.zeros((1, SHAPES.tokens), np.int32)  # what follows is not seen
    words = np.concatenate([turn.prompt, turn.reply])
    text[0, : len(words)] = words
    hidden = slow_hidden(params, text)[0]
    first = len(turn.prompt) - 1
    expected = (hidden @ params[values.HEAD])[first : len(words) - 1]
    np.testing.assert_allclose(row[: len(expected)], expected, atol=1e-5)
    assert not row[len(expected) :].any()


@jax.jit
def slow_hidden(params, text):
  backbone = {n: x for n, x in params.items() if n != values.HEAD}
  return MODEL.replace(tied_head=True).forward(backbone, text)


@pytest.mark.slow
def test_rows_on_several_devices_change_nothing():
  """One step of the real model, all of it trained, on 8 devices and on one."""
  fn, params = model_values()
  turns = [turn for t in episodes(0) for turn in t.turns]
  shapes = dataclasses.replace(SHAPES, rows=4, turns=1)
  flat = packing.flatten(turns, shapes)
  micro = shapes.micro_batches(len(turns))
  plan = packing.pack(flat, np.arange(len(turns)), shapes, micro)
  targets = np.random.default_rng(0).normal(size=(len(turns), 1))
  batch = plan.value_batch(np.zeros_like(targets), targets)
  step = update.make_train_step(fn, critic.ValueLoss(0.5), optax.sgd(1.0))

  def stepped(params):
    copy = jax.tree.map(lambda x: x.copy(), params)
    return step(update.init_state(copy, optax.sgd(1.0)), batch)

  expected, scalars = jax.device_get(stepped(params))
  assert scalars['value_loss'] > 0
  assert scalars['grad_norm'] > 0.1
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  with jax.set_mesh(mesh):
    places = sharding.param_shardings(mesh, params, MODEL)
    placed = jax.device_put(params, places)
    head = placed[values.HEAD].addressable_shards[0].data
    assert head.shape == (4,)  # split like the width of all params
    found = jax.device_get(stepped(placed))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    (found[0].params, found[1]),
    (expected.params, scalars),
  )
