"""Losses: pure functions of token log-probs `[N, R]`; no model, no env.

A new surrogate that needs no more than log-probs, advantages and a mask is a
function `fn(log_probs, old_log_probs, advantages, mask, **options)`, an entry
here, and a line in the table of tests/losses/test_surrogates.py, which holds
the common promises: padding and order of rows change nothing, gradients are
finite.
"""

from __future__ import annotations

from collections.abc import Callable

from hgpo_jax.losses import dcpo, policy, sequence, soft

SURROGATES: dict[str, Callable[..., policy.Surrogate]] = {
  'clipped': policy.clipped_surrogate,
  'gspo': sequence.gspo,
  'gmpo': sequence.gmpo,
  'kpo': sequence.kpo,
  'dcpo': dcpo.dcpo,
  'cispo': soft.cispo,
  'sapo': soft.sapo,
}

__all__ = ['SURROGATES']
