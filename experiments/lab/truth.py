"""The true value and advantage of a step, by Monte Carlo with standard errors.

The truth is A(h, a) = Q(h, a) - V(h) of the discounted return under the
player's own policy, h being the whole state: game, turn and window.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from experiments.lab.play import Moment, Rules, play
from experiments.lab.policy import Policy


class Estimate(NamedTuple):
  """A mean and its standard error, in reward units."""

  mean: float
  error: float


class Truth(NamedTuple):
  """What a step (h, a) is worth.

  Attributes:
    probability: pi(a | h).
    taken: Q(h, a).
    other: the mean of Q(h, b) over b ~ pi(. | h) given b != a.
  """

  probability: float
  taken: Estimate
  other: Estimate

  @property
  def value(self) -> Estimate:
    """V(h) = pi(a) Q(a) + (1 - pi(a)) Q(not a)."""
    return combine(self.probability, self.taken, self.missed, self.other)

  @property
  def advantage(self) -> Estimate:
    """A(h, a) = (1 - pi(a)) (Q(a) - Q(not a)).

    The same as Q - V, but as the policy's probabilities are known, the error of
    a likely move shrinks with its advantage.
    """
    return combine(self.missed, self.taken, -self.missed, self.other)

  @property
  def missed(self) -> float:
    """The probability of all other moves."""
    return 1 - self.probability


def combine(x: float, one: Estimate, y: float, two: Estimate) -> Estimate:
  """The sum x one + y two of independent estimates."""
  return Estimate(
    x * one.mean + y * two.mean, math.hypot(x * one.error, y * two.error)
  )


def mean_of(returns: Sequence[float]) -> Estimate:
  """The mean of two or more independent draws."""
  spread = statistics.stdev(returns) if len(set(returns)) > 1 else 0.0
  return Estimate(statistics.fmean(returns), spread / math.sqrt(len(returns)))


def step_truth(
  moment: Moment,
  action: str,
  rules: Rules,
  policy: Policy,
  rng: random.Random,
  continuations: int,
) -> Truth:
  """Plays on from h, with a and with other moves.

  Args:
    moment: h.
    action: a, one of the offered commands.
    rules: of the episodes.
    policy: the player's, whose moves also follow a.
    rng: draws the continuations.
    continuations: of each kind, at least 2.
  """
  choice = policy(moment.view(rules))
  probability = choice.probability(action)

  def play_on(forced: str) -> float:
    return play(moment, rules, policy, rng, [forced]).discounted(rules)

  taken = mean_of([play_on(action) for _ in range(continuations)])
  if probability > 1 - 1e-9:  # there is no other move
    return Truth(1.0, taken, taken)
  others = (choice.draw_other(rng, action) for _ in range(continuations))
  return Truth(probability, taken, mean_of([play_on(x) for x in others]))


def value_of(
  moment: Moment,
  rules: Rules,
  policy: Policy,
  rng: random.Random,
  continuations: int,
) -> Estimate:
  """V(h), from whole continuations by the policy."""
  return mean_of(
    [
      play(moment, rules, policy, rng).discounted(rules)
      for _ in range(continuations)
    ]
  )
