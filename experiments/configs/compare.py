"""The comparison: methods at equal budgets on the embedded family.

Command: `python -m experiments.compare`. Cost: meant to be at most four minutes
a run on 2 cores, after a warm start that methods of one seed and window share.
One cell alone: `python -m experiments.train
--config=experiments/configs/compare.py:hgpo_k4`.

All else is the embedded default's, whose learning rate was chosen with the
mean-only HGPO; the others may have better ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from experiments.configs import alfworld_tiny


class Method(NamedTuple):
  """One row of the comparison.

  Attributes:
    label: as tables and plots name it.
    overrides: dotted field -> value, on top of what all methods share.
    reported: method and K in `experiments.reported`; None where no paper
      reports it.
  """

  label: str
  overrides: Mapping[str, Any]
  reported: tuple[str, int] | None = None


METHODS: Mapping[str, Method] = {
  'ppo': Method(
    'PPO',
    {
      'algo.estimator': 'ppo',
      'algo.ppo.level': 'turn',
      # From three trials of 25 iterations with seed 0: base's narrow clip
      # keeps values of up to 10 from being learned in so few updates.
      'algo.ppo.critic_learning_rate': 1e-3,
      'algo.ppo.value_clip': 10.0,
      'algo.ppo.lam': 0.95,
    },
    ('ppo', 2),
  ),
  'rloo': Method('RLOO', {'algo.estimator': 'rloo'}, ('rloo', 2)),
  'grpo': Method(
    'GRPO',
    {'algo.estimator': 'grpo', 'algo.grpo.normalisation': 'mean_std'},
    ('grpo', 2),
  ),
  'gigpo': Method(
    'GiGPO',
    {'algo.estimator': 'gigpo', 'algo.gigpo.normalisation': 'mean'},
    ('gigpo', 2),
  ),
  'hgpo_k2': Method('HGPO (K=2)', {'algo.estimator': 'hgpo'}, ('hgpo', 2)),
  'hgpo_k4': Method(
    'HGPO (K=4)',
    {
      'algo.estimator': 'hgpo',
      'env.history': 4,
      # Prompts of four turns hold 41 tokens instead of 29, and 70 at most;
      # as many turns as before are packed into a row.
      'sampling.prompt_buckets': (48, 64, 96),
      'optim.row_tokens': 288,
    },
    ('hgpo', 4),
  ),
  'hgpo_shrink': Method(
    'HGPO shrink',
    {
      'algo.estimator': 'hgpo_shrink',
      'algo.hgpo_shrink.normalisation': 'mean',
    },
  ),
  # Contexts of four turns for a policy that reads two.
  'hgpo_depth4': Method(
    'HGPO (depth 4, K=2)', {'algo.estimator': 'hgpo', 'algo.hgpo.depth': 4}
  ),
}
# Those of the paper's main tables, and `hgpo_shrink`.
MAIN = ('ppo', 'rloo', 'grpo', 'gigpo', 'hgpo_k2', 'hgpo_k4', 'hgpo_shrink')
# Differences are taken to these.
REFERENCES = ('hgpo_k2', 'grpo')


def get_config(method: str = 'hgpo_k2') -> ml_collections.ConfigDict:
  """Returns the config of one of `METHODS`."""
  if method not in METHODS:
    raise ValueError(
      f'method is {method!r}; expected one of {", ".join(METHODS)}.'
    )
  c = alfworld_tiny.get_config()
  c.iterations = 60  # PPO, the slowest, sets how many four minutes hold
  c.algo.hgpo.normalisation = 'mean'
  c.eval.update(games=512, temperatures=(0.4,))  # the paper's temperature
  c.samples_every = 0
  c.update_from_flattened_dict(METHODS[method].overrides)
  return c
