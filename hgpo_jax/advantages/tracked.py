"""Estimators with a state, which goes in and comes back with the advantages.

They judge episodes, not rows, by what earlier iterations saw; the caller gives
each episode's advantage to all of its rows. Axes: G groups (bundles of RiskPO,
or prompts with one episode each), I questions of a bundle, J responses to a
question, P prompts that are tracked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
from flax import struct

from hgpo_jax.advantages import segments

Source = Literal['mix', 'track']
Credit = Literal['uniform', 'std', 'sum_mean']


@struct.dataclass
class Quantiles:
  """RiskPO's tracked quantiles of the papers' scores; both `[]` float32."""

  low: jax.Array
  high: jax.Array


def quantiles_of(
  scores: jax.Array, levels: tuple[float, float] = (0.2, 0.8)
) -> Quantiles:
  """The two quantiles of all scores (any shape): a state to start from."""
  low, high = jnp.quantile(scores, jnp.asarray(levels))
  return Quantiles(low=low, high=high)


def risk_po(
  scores: jax.Array,
  state: Quantiles,
  *,
  levels: tuple[float, float] = (0.2, 0.8),
  source: Source = 'mix',
  rate: float = 0.1,
  natural: bool = False,
  tail: float = 0.0,
  normalise: bool = False,
  eps: float = 1e-6,
) -> tuple[jax.Array, Quantiles]:
  """Scores a paper by where its score lies between two quantiles.

    A_rvar = ((S - q_d)+ - (S - q_u)+ + [natural] (q_d - q_u)) / (a_u - a_d)
    A_cvar = -(q_d - S)+ / a_d
    A = (tail A_cvar + A_rvar) / (tail + 1)
    q <- q + rate (a - share of scores below q),   for both quantiles

  RiskPO (https://arxiv.org/abs/2510.00911). A bundle is some questions (tasks)
  with J responses (episodes) each; its paper j consists of response j to every
  question, and S is the sum of their rewards.

  Args:
    scores: `[G, J]` float, S of G bundles with J papers each.
    state: the quantiles before this batch.
    levels: a_d and a_u; (0.2, 0.8) for hard questions, (0.2, 0.9) for easy
      ones.
    source: 'track' has q from the state; 'mix' halfway between that and the
      bundle's own quantile.
    rate: step of the tracked quantiles, in score units.
    natural: keeps the part that is constant between the quantiles. All
      advantages are then at most 0, and 0 above q_u.
    tail: weight of the lower tail; 0 is without, the released code has 1.5.
    normalise: divides by the bundle's sample deviation of scores (by 1 where
      they are all equal, ours).
    eps: added to that deviation, in score units.

  Returns: `[G, J]` float32 advantages, and the state for the next batch.

  Raises:
    ValueError: the source has another name.
  """
  chex.assert_rank(scores, 2)
  chex.assert_rank([state.low, state.high], 0)
  low, high = state.low, state.high
  if source == 'mix':
    own = jnp.quantile(scores, jnp.asarray(levels), axis=1)[..., None]
    low, high = (low + own[0]) / 2, (high + own[1]) / 2  # [G, 1]
  elif source != 'track':
    raise ValueError(f"Got source={source!r}, expected 'mix' or 'track'.")
  above = jnp.maximum(scores - low, 0) - jnp.maximum(scores - high, 0)
  rvar = (above + natural * (low - high)) / (levels[1] - levels[0])
  cvar = -jnp.maximum(low - scores, 0) / levels[0]
  advantages = (tail * cvar + rvar) / (tail + 1)
  if normalise:
    flat = scores.max(1, keepdims=True) == scores.min(1, keepdims=True)
    deviation = scores.std(1, ddof=1, keepdims=True)
    advantages /= jnp.where(flat, 1, deviation + eps)
  return advantages, Quantiles(
    low=state.low + rate * (levels[0] - (scores < state.low).mean()),
    high=state.high + rate * (levels[1] - (scores < state.high).mean()),
  )


def share_credit(
  advantages: jax.Array,
  rewards: jax.Array,
  credit: Credit,
  *,
  eps: float = 1e-6,
) -> jax.Array:
  """Gives the responses of a paper their parts of its advantage; see `risk_po`.

  Args:
    advantages: `[G, J]` float, of the papers.
    rewards: `[G, I, J]` float, of response j to each question of the bundle.
    credit: 'uniform', the paper's own; 'std', that over the sample deviation of
      the question's rewards (over 1 where it is at most 1e-3); 'sum_mean', in
      proportion to r - mean of the question, or in equal parts where the sum of
      these is 0 (up to 1e-6).
    eps: added to the deviation, in reward units.

  Returns: `[G, I, J]` float32.

  Raises:
    ValueError: the credit has another name.
  """
  chex.assert_rank(rewards, 3)
  chex.assert_shape(advantages, rewards.shape[::2])
  paper = jnp.broadcast_to(advantages[:, None], rewards.shape)
  if credit == 'uniform':
    return paper
  if credit == 'std':
    deviation = rewards.std(2, ddof=1, keepdims=True)
    return paper / (jnp.where(deviation > 1e-3, deviation, 1) + eps)
  if credit == 'sum_mean':
    off = rewards - rewards.mean(2, keepdims=True)
    total = off.sum(1, keepdims=True)
    even = jnp.abs(total) <= 1e-6
    part = jnp.where(
      even, 1 / rewards.shape[1], off / jnp.where(even, 1, total)
    )
    return paper * part
  raise ValueError(
    f"Got credit={credit!r}, expected 'uniform', 'std' or 'sum_mean'."
  )


@struct.dataclass
class PromptBeliefs:
  """A Beta distribution per prompt over its success rate; both `[P]` float32.

  Attributes:
    alpha: weight of successes; the expected rate is alpha / (alpha + beta).
    beta: weight of failures.
  """

  alpha: jax.Array
  beta: jax.Array

  @property
  def rate(self) -> jax.Array:
    """The expected success rate `[P]`."""
    return self.alpha / (self.alpha + self.beta)


def beliefs_from(
  successes: jax.Array, trials: jax.Array | int, *, memory: float = 0.875
) -> PromptBeliefs:
  """Starts from offline samples, as if so many had been seen as are remembered.

    alpha = N (successes + 1/2) / (trials + 1),   N = 1 / (1 - memory)

  and beta = N - alpha.

  Args:
    successes: `[P]` float, summed rewards of each prompt's samples.
    trials: number of these, for all prompts or `[P]`.
    memory: the least share of the past that `single_stream` keeps.
  """
  weight = 1 / (1 - memory)
  rate = (successes + 0.5) / (trials + 1.0)
  return PromptBeliefs(alpha=weight * rate, beta=weight * (1 - rate))


def single_stream(
  rewards: jax.Array,
  prompts: jax.Array,
  drift: jax.Array,
  mask: jax.Array,
  state: PromptBeliefs,
  *,
  half_drift: float = 0.06,
  memory: tuple[float, float] = (0.875, 0.96),
  normalisation: segments.Normalisation = 'mean_std',
  std: segments.Std = 'sample',
  eps: float = 1e-8,
) -> tuple[jax.Array, PromptBeliefs]:
  """Compares one episode per prompt with the success rate tracked for it.

    a = r - v,   A = (a - mean_B a) / (std_B a + eps)
    rho = clip(2^(-D / half_drift), memory)
    alpha <- rho alpha + r,   beta <- rho beta + 1 - r

  Single-stream policy optimisation (https://arxiv.org/abs/2509.13232): no
  groups, so no group without spread, and no waiting for a group's last episode.

  Args:
    rewards: `[G]` float in [0, 1].
    prompts: `[G]` int in [0, P), none of them twice.
    drift: `[G]` float, D: the mean absolute change of the log-probs of the
      prompt's previous response, in nats.
    mask: `[G]` bool, False on padding.
    state: of all prompts, v = alpha / (alpha + beta) is from before the update.
    half_drift: the D at which half of the past is forgotten, in nats.
    memory: least and largest share of the past that is kept.
    normalisation: 'mean_std' as above; 'mean' only takes mean_B off.
    std: 'sample' (n - 1) or 'population' (n).
    eps: floor of the deviation.

  Returns: `[G]` float32 advantages, 0 on padding and in a batch without spread
    of a; and the new state.
  """
  chex.assert_shape([rewards, prompts, drift, mask], (mask.size,))
  chex.assert_rank([state.alpha, state.beta], 1)
  gap = rewards - state.rate[prompts]
  moments = segments.batch_moments(gap, mask)
  kept = jnp.clip(2 ** (-drift / half_drift), *memory)
  place = jnp.where(mask, prompts, state.alpha.shape[0])  # padding falls off
  alpha = kept * state.alpha[prompts] + rewards
  beta = kept * state.beta[prompts] + 1 - rewards
  return segments.relative(moments, normalisation, std, eps), PromptBeliefs(
    alpha=state.alpha.at[place].set(alpha, mode='drop'),
    beta=state.beta.at[place].set(beta, mode='drop'),
  )


# Inputs differ; advantages and the new state come back.
TRACKERS: dict[str, Callable[..., tuple[jax.Array, Any]]] = {
  'risk_po': risk_po,
  'single_stream': single_stream,
}
