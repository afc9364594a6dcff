"""Advantage estimators by name: rows `[N]` in, advantages `[N]` float32 out.

A new estimator is a function `fn(rows, **options)`, an entry here, and a line
in the table of tests/test_advantages.py, which holds the common promises:
padding, order and other groups change nothing; a group without spread is 0.
"""

from __future__ import annotations

from collections.abc import Callable

import jax

from hgpo_jax.advantages import episode, step
from hgpo_jax.advantages.rows import Rows, check, intern, pad

ESTIMATORS: dict[str, Callable[..., jax.Array]] = {
  'grpo': episode.grpo,
  'rloo': episode.rloo,
  'gigpo': step.gigpo,
  'hgpo': step.hgpo,
}

__all__ = ['ESTIMATORS', 'Rows', 'check', 'intern', 'pad']
