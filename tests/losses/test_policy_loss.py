"""The loss section of a config: what it builds, and what is refused."""

import types as python_types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import base
from hgpo_jax import types
from hgpo_jax.losses import SURROGATES, aggregate
from hgpo_jax.sampler import scoring
from hgpo_jax.train import config_checks, update

ROWS, LENGTH = 6, 4


def loss_config(**changes):
  c = base.get_config()
  c.mesh.fsdp = 1
  c.loss.update(changes)
  return base.freeze(c)


def batch(seed=0):
  rng = np.random.default_rng(seed)
  old = -rng.exponential(size=(ROWS, LENGTH)).astype(np.float32)
  new = old + 0.3 * rng.normal(size=old.shape).astype(np.float32)
  mask = np.arange(LENGTH) < rng.integers(0, LENGTH + 1, ROWS)[:, None]
  return new, old, rng.normal(size=ROWS).astype(np.float32), mask


def apply(config):
  """The loss of a batch and of its halves, over the counts of all of it."""
  config_checks.check(config)
  config = config.loss
  loss, (new, old, advantages, mask) = update.make_policy_loss(config), batch()
  over = update.Denominators(
    loss=aggregate.AGGREGATES[config.aggregation].count(mask),
    tokens=aggregate.count_tokens(mask),
  )

  @jax.jit
  def run(mask):
    scores = scoring.Scores(log_probs=new, entropy=jnp.ones_like(new))
    given = python_types.SimpleNamespace(
      old_log_probs=old, ref_log_probs=old - 0.1, advantages=advantages
    )
    return loss(scores, given, mask, over)[0]

  every = np.arange(ROWS)[:, None] >= 0
  first = np.arange(ROWS)[:, None] < ROWS // 2
  return [float(run(mask & part)) for part in (every, first, ~first)]


@pytest.mark.parametrize('name', SURROGATES)
def test_every_surrogate_by_name_adds_up_over_micro_batches(name):
  whole, *parts = apply(
    loss_config(surrogate=name, aggregation='seq-mean-token-mean')
  )
  assert sum(parts) == pytest.approx(whole, rel=1e-5)
  assert 0 not in parts


def test_options_reach_the_surrogate():
  def value(**changes):
    return apply(loss_config(kl_coef=0.0, entropy_coef=0.0, **changes))[0]

  assert value(clip_high=0.01) != value()
  kalman = {'q': 1.0, 'clip_high': 1.0}
  assert value(surrogate='kpo', kpo=kalman) != value(surrogate='kpo')


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'surrogate': 'ppo'}, "loss.surrogate is 'ppo'.*'clipped'.*'gspo'"),
    ({'kl': 'k9'}, "loss.kl is 'k9'.*'k3'"),
    ({'aggregation': 'mean'}, 'loss.aggregation.*token-mean'),
    ({'dual_clip': 0.5}, 'loss.clipped: .*above 1'),
    ({'surrogate': 'kpo', 'kpo': {'q': -1.0}}, 'loss.kpo: .*at least 0'),
  ],
)
def test_what_cannot_work_is_refused_at_start_up(changes, message):
  with pytest.raises(types.ConfigError, match=message):
    config_checks.check(loss_config(**changes))


def test_an_option_that_the_surrogate_does_not_have_is_refused():
  config = base.get_config().unlock()
  config.loss.gspo.dual_clip = 3.0
  with pytest.raises(types.ConfigError, match="'loss.gspo.dual_clip'"):
    base.freeze(config)
