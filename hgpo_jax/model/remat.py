"""What a backward pass finds in memory; the rest is computed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax

Block = TypeVar('Block', bound=Callable[..., Any])

# From what keeps most to what keeps least.
POLICIES: dict[str, Callable[..., bool] | None] = {
  'none': None,  # everything is kept
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  'full': jax.checkpoint_policies.nothing_saveable,
}


def rematerialised(name: str, block: Block) -> Block:
  """A block of a scan that keeps what the policy of this name says."""
  if name == 'none':
    return block
  # Inside a scan nothing can be merged with the forward pass anyway.
  policy = POLICIES[name]
  return cast(Block, jax.checkpoint(block, policy=policy, prevent_cse=False))
