"""Advantage estimators by name: rows `[N]` in, advantages `[N]` float32 out.

A new estimator is a function `fn(rows, **options)`, an entry here, a slow
reference in tests/references.py, and a line in the table of
tests/advantages/test_advantages.py, which holds the common promises: padding,
order and other groups change nothing; a group without spread is 0. What an
estimator promises less, it says there. `TRACKERS` are those that also keep a
state.
"""

from __future__ import annotations

from collections.abc import Callable

import jax

from hgpo_jax.advantages import (
  batchwise,
  difficulty,
  episode,
  robust,
  shrink,
  step,
)
from hgpo_jax.advantages.rows import (
  Rows,
  check,
  intern,
  intern_within,
  pad,
)
from hgpo_jax.advantages.tracked import TRACKERS

ESTIMATORS: dict[str, Callable[..., jax.Array]] = {
  'grpo': episode.grpo,
  'dr_grpo': episode.dr_grpo,
  'rloo': episode.rloo,
  'dr_mas': episode.dr_mas,
  'reinforce_pp': batchwise.reinforce_pp,
  'reinforce_pp_baseline': batchwise.reinforce_pp_baseline,
  'lite_ppo': batchwise.lite_ppo,
  'gdpo': batchwise.gdpo,
  'ngrpo': robust.ngrpo,
  'mc_grpo': robust.mc_grpo,
  'bnpo': difficulty.bnpo,
  'a_grae': difficulty.a_grae,
  'copo': difficulty.copo,
  'gigpo': step.gigpo,
  'hgpo': step.hgpo,
  'hgpo_shrink': shrink.hgpo_shrink,
  'turn_index': step.turn_index,
  'salt': step.salt,
}

__all__ = [
  'ESTIMATORS',
  'TRACKERS',
  'Rows',
  'check',
  'intern',
  'intern_within',
  'pad',
]
