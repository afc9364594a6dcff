"""The lab's tables, one per CSV file."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments import bootstrap
from experiments.bootstrap import Interval
from experiments.lab import estimates, statistics
from experiments.lab.cells import Cases, Player
from experiments.lab.estimates import Estimated, Estimator
from experiments.lab.play import Rules
from experiments.lab.statistics import Truths

Record = dict[str, Any]

_STEP_FIELDS = (
  'turn', 'turns', 'won', 'action', 'weight', 'probability', 'taken',
  'taken_error', 'other', 'other_error', 'value', 'value_error', 'advantage',
  'advantage_error',
)  # fmt: skip


class Tables(NamedTuple):
  """What is known of one player, or of many.

  Attributes:
    players: a row per player: see `_player`.
    steps: per case, its truth: `_STEP_FIELDS`.
    cells: per group size and estimator: see `_scores`.
    comparisons: per group size, pair and measure: see `_comparisons`.
    levels: per group size and level of contexts: see `_levels`.
  """

  players: pd.DataFrame
  steps: pd.DataFrame
  cells: pd.DataFrame
  comparisons: pd.DataFrame
  levels: pd.DataFrame


def of_cell(
  player: Player,
  cases: Cases,
  rules: Rules,
  *,
  alphas: Sequence[float],
  group_sizes: Sequence[int],
  draws: int,
  seed: int,
) -> Tables:
  """Estimates the advantages of a player's cases by all estimators.

  Args:
    player: skill and depth.
    cases: the player's.
    rules: they were played by.
    alphas: HGPO's exponents.
    group_sizes: episodes in a group; smaller groups are parts of larger ones.
    draws: bootstrap resamples.
    seed: of the resampling.
  """
  truths = Truths(cases['advantage'], cases['advantage_error'], cases['weight'])
  methods = estimates.estimators(rules.depth, alphas, rules.reward)
  shares = statistics.resamples(truths.weight, draws, seed)
  of_sizes = []
  for group_size in group_sizes:
    estimated = estimates.estimate(cases, rules, group_size, methods)
    scores = statistics.scores(estimated.advantages, truths, shares)
    of_size = (
      _scores(methods, estimated.advantages, truths, shares[0], scores),
      _comparisons(methods, alphas, scores),
      _levels(cases, estimated, truths),
    )
    for table in of_size:
      table.insert(0, 'group_size', group_size)
    of_sizes.append(of_size)
  steps = {'game': range(truths.weight.size)} | {
    name: cases[name] for name in _STEP_FIELDS
  }
  tables = Tables(
    pd.DataFrame([_player(cases, truths)]),
    pd.DataFrame(steps),
    *map(pd.concat, zip(*of_sizes, strict=True)),
  )
  for table in tables:
    table.insert(0, 'skill', player[0])
    table.insert(1, 'depth', player[1])
  return tables


def _player(cases: Cases, truths: Truths) -> Record:
  """What the player is like, and how well its steps' truths are known."""
  share = truths.weight / truths.weight.sum()
  power = share @ (truths.advantage**2 - truths.error**2)
  return {
    'steps': truths.weight.size,
    'effective_steps': 1 / (share @ share),
    'success': cases['success'][:, :, 1:].mean(),
    'turns': cases['length'][:, :, 1:].mean(),
    'advantage_rms': statistics.root(power),
    'error_rms': np.sqrt(share @ truths.error**2),
    'clear': share @ (np.abs(truths.advantage) > 2 * truths.error),
    'good': share @ (truths.advantage > 0),
  }


def _scores(
  methods: Sequence[Estimator],
  advantages: np.ndarray,
  truths: Truths,
  share: np.ndarray,
  scores: statistics.Scores,
) -> pd.DataFrame:
  """Errors of every estimator."""
  scale = scores.scale[0]
  raw = statistics.parts(advantages, truths, share, np.ones(len(methods)))
  scaled = statistics.parts(advantages, truths, share, scale)
  signs = [statistics.sign_accuracy(x, truths) for x in advantages]
  zeros = [truths.weight @ (x == 0).mean(1) for x in advantages]
  sign, sign_balanced, sign_steps = zip(*signs, strict=True)
  return pd.DataFrame(
    {
      'estimator': [x.name for x in methods],
      'variant': [x.variant for x in methods],
      'form': [x.form for x in methods],
      'weighting': [x.weighting for x in methods],
      'alpha': np.array([x.alpha for x in methods], float),  # NaN for None
      **raw._asdict(),
      **_with_interval('mse', scores.mse),
      'scale': scale,
      'scaled_squared_bias': scaled.squared_bias,
      'scaled_variance': scaled.variance,
      **_with_interval('scaled_mse', scores.scaled_mse),
      **_with_interval('explained', scores.explained),
      'rank': [statistics.rank_correlation(x, truths) for x in advantages],
      'sign': sign,
      'sign_balanced': sign_balanced,
      'sign_steps': sign_steps,
      'silent': np.array(zeros) / truths.weight.sum(),
    }
  )


def _with_interval(name: str, draws: np.ndarray) -> Record:
  """Columns of `[B]` or `[B, P]` draws, of which the first is the mean."""
  x = bootstrap.interval(draws[0], draws[1:])
  return {
    name: x.mean,
    f'{name}_low': x.low,
    f'{name}_high': x.high,
  }


_VERDICTS = {0: 'no difference', 1: 'better', -1: 'worse'}
# (first, second): is the first nearer to the truth?
PAIRS = (('hgpo', 'gigpo'), ('hgpo', 'grpo'), ('hgpo_shrink', 'hgpo'))
# Forms, and by what they are compared.
_MEASURES = (('mean', 'mse'), ('mean', 'explained'), ('mean_std', 'explained'))


def main_alpha(alphas: Sequence[float]) -> float:
  """The exponent that HGPO is compared at: the paper's 1, if it is there."""
  return 1.0 if 1.0 in alphas else alphas[0]


def _comparisons(
  methods: Sequence[Estimator],
  alphas: Sequence[float],
  scores: statistics.Scores,
) -> pd.DataFrame:
  """Paired differences, first less second, over the same resamples.

  The raw error compares mean-only forms, which are in reward units; the share
  explained after each estimator's own scale compares both forms.
  """
  place = {
    (estimator.name, estimator.form): p
    for p, estimator in enumerate(methods)
    if not estimator.variant
    and estimator.weighting in ('', 'released')
    and estimator.alpha in (None, main_alpha(alphas))
  }
  records: list[Record] = []
  for (first, second), (form, measure) in itertools.product(PAIRS, _MEASURES):
    draws = getattr(scores, measure)
    apart = draws[:, place[first, form]] - draws[:, place[second, form]]
    columns = _with_interval('difference', apart)
    sign = Interval(*columns.values()).sign * (-1 if measure == 'mse' else 1)
    records.append(
      {
        'first': first,
        'second': second,
        'form': form,
        'measure': measure,
        **columns,
        'verdict': _VERDICTS[sign],
      }
    )
  return pd.DataFrame(records)


def _levels(cases: Cases, estimated: Estimated, truths: Truths) -> pd.DataFrame:
  """What the levels of contexts join."""
  records: list[Record] = []
  for level, size in zip(estimated.level, estimated.size, strict=True):
    own = statistics.level_bias(level, size > 1, truths)
    state = statistics.level_bias(estimated.level[0], size > 1, truths)
    gap = statistics.value_gap(cases, len(records))
    records.append(
      {
        'steps': own.steps,
        'bias_rms': own.rms,
        'variance': own.variance,
        'state_bias_rms': state.rms,
        'state_variance': state.variance,
        'members': gap.members,
        'value_gap_rms': gap.rms,
        'value_gap_mean': gap.mean,
      }
    )
  of_rows = {
    'level': range(len(records)),
    'share_grouped': estimated.share_grouped,
    'share_spread': estimated.share_spread,
    'mean_size': estimated.mean_size,
  }
  return pd.concat([pd.DataFrame(of_rows), pd.DataFrame(records)], axis=1)


def joined(tables: Sequence[Tables]) -> Tables:
  """The tables of several players, one below the other."""
  frames = zip(*tables, strict=True)
  return Tables(*(pd.concat(x, ignore_index=True) for x in frames))


def write_csv(path: pathlib.Path, table: pd.DataFrame) -> None:
  """Writes a table; five digits, nothing for NaN."""
  table.to_csv(path, index=False, float_format='%.5g', lineterminator='\n')
