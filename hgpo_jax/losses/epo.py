"""EPO: an entropy bonus that holds entropy near what it used to be.

https://arxiv.org/abs/2509.22576. Per token, the loss gets

  -c (H - w pen(H, usual)),  usual = mean entropy at that environment step

where w is `window_weight` of the progress and c a small coefficient. Axes: N
turns, R reply tokens, E environment steps of an episode.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import struct


def bonus(
  entropy: jax.Array, penalty: jax.Array, *, weight: jax.Array | float = 1.0
) -> jax.Array:
  """H - weight * penalty, `[N, R]`: its mean, times c, leaves the loss."""
  chex.assert_rank(entropy, 2)
  chex.assert_equal_shape([entropy, penalty])
  return entropy - weight * penalty


def hinge(
  entropy: jax.Array, usual: jax.Array, *, low: float = 0.0, high: float = 2.0
) -> jax.Array:
  """Distance of the entropy from the window, with a gradient.

    pen = relu(H - high usual) + relu(low usual - H)

  Ours: the paper's penalty is a constant, see `released`.

  Args:
    entropy: `[N, R]` in nats, differentiable.
    usual: `[N]` in nats; 0 where there is none yet, and then no window.
    low: lower end of the window, in units of `usual`.
    high: upper end.

  Returns: `[N, R]` in nats.
  """
  chex.assert_rank(entropy, 2)
  chex.assert_shape(usual, entropy.shape[:1])
  usual = usual[:, None]
  above = jax.nn.relu(entropy - high * usual)
  below = jax.nn.relu(low * usual - entropy)
  return jnp.where(usual > 0, above + below, 0)


def released(
  entropy: jax.Array,
  usual: jax.Array,
  *,
  low: float = 0.0,
  high: float = 2.0,
  size: float = 0.1,
) -> jax.Array:
  """`size` outside the open window, else 0, as the released code has it.

  Its gradient is 0, so that it moves the loss that is logged but not the
  policy, which is then trained on the plain entropy bonus.

  Args:
    entropy: as in `hinge`.
    usual: as in `hinge`.
    low: as in `hinge`.
    high: as in `hinge`.
    size: 0.1 for ALFWorld, 0.05 for ScienceWorld.
  """
  chex.assert_rank(entropy, 2)
  chex.assert_shape(usual, entropy.shape[:1])
  usual = usual[:, None]
  inside = (entropy > low * usual) & (entropy < high * usual)
  return jnp.where(inside | (usual <= 0), 0, size).astype(entropy.dtype)


WINDOWS: dict[str, Callable[..., jax.Array]] = {
  'hinge': hinge,
  'released': released,
}


def window_weight(progress: jax.Array | float) -> jax.Array:
  """Weight of the window over a run: a slow fall, then a quick one.

    1 - 0.2 (1 - exp(-2 x)) in the first half, 0.8 exp(-3 x) in the second

  where x runs from 0 to 1 in each half. From 0.827 it drops to 0.8.

  Args:
    progress: share of the run that is done, in [0, 1]; of any shape.
  """
  x = 2 * jnp.asarray(progress, jnp.float32)
  early = 1 - 0.2 * (1 - jnp.exp(-2 * x))
  return jnp.where(x <= 1, early, 0.8 * jnp.exp(-3 * (x - 1)))


@struct.dataclass
class History:
  """Mean entropy per environment step, over the iterations so far.

  Attributes:
    mean: `[E]` float32, in nats.
    iterations: `[E]` int32, in how many the step was reached.
  """

  mean: jax.Array
  iterations: jax.Array


def no_history(steps: int) -> History:
  """Of episodes of at most `steps` environment steps, none played yet."""
  return History(jnp.zeros(steps), jnp.zeros(steps, jnp.int32))


def remember(
  history: History, entropy: jax.Array, mask: jax.Array, step: jax.Array
) -> History:
  """Adds one iteration: per step the mean over its tokens counts once.

  Args:
    history: before it.
    entropy: `[N, R]` in nats, of all turns of the iteration.
    mask: `[N, R]`.
    step: `[N]` int32 in [0, E), the environment step of each row.
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([entropy, mask])
  chex.assert_shape(step, mask.shape[:1])
  real = mask.astype(bool)
  steps = history.mean.shape[0]

  def total(values: jax.Array) -> jax.Array:
    sums = jnp.where(real, values, 0).astype(jnp.float32).sum(axis=1)
    return jax.ops.segment_sum(sums, step, steps)

  count = total(jnp.ones_like(entropy))
  reached = count > 0
  iterations = history.iterations + reached
  change = total(entropy) / jnp.maximum(count, 1) - history.mean
  mean = history.mean + jnp.where(
    reached, change / jnp.maximum(iterations, 1), 0
  )
  return History(mean, iterations)


def usual_entropy(
  history: History, step: jax.Array, *, first: int = 0
) -> jax.Array:
  """What `hinge` compares with: `[N]` in nats, 0 where there is no window.

  Args:
    history: of earlier iterations.
    step: `[N]` int32, the environment step of each row.
    first: earlier steps have no window. The released code opens it for whole
      micro-batches, if any of their rows has reached half of the step limit;
      by row, how turns were packed does not matter.
  """
  chex.assert_rank([history.mean, step], 1)
  return jnp.where(step >= first, history.mean[step], 0)
