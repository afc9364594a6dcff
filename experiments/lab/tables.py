"""The lab's tables, one per CSV file."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments import bootstrap
from experiments.bootstrap import Interval
from experiments.lab import estimates, statistics
from experiments.lab.cells import Cases, Player
from experiments.lab.estimates import Estimator, Judged
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
    steps: per case: its truth.
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
  """Judges the cases of a player with every estimator at every group size.

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
  found = estimates.estimators(rules.depth, alphas, rules.reward)
  shares = statistics.resamples(truths.weight, draws, seed)
  tables: list[list[Record]] = [
    [_player(cases, truths)], list(_steps(cases)), [], [], []
  ]  # fmt: skip
  for group_size in group_sizes:
    judged = estimates.judge(cases, rules, group_size, found)
    scores = statistics.scores(judged.advantages, truths, shares)
    of_size = (
      _scores(found, judged, truths, shares, scores),
      _comparisons(found, alphas, scores),
      _levels(cases, judged, truths),
    )
    for table, records in zip(tables[2:], of_size, strict=True):
      table += [{'group_size': group_size} | record for record in records]
  skill, depth = player
  return Tables(
    *(
      pd.DataFrame([{'skill': skill, 'depth': depth} | x for x in table])
      for table in tables
    )
  )


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


def _steps(cases: Cases) -> Iterator[Record]:
  """The picked steps with their truths."""
  for index in range(cases['turn'].size):
    yield {'game': index} | {x: cases[x][index].item() for x in _STEP_FIELDS}


def _scores(
  found: Sequence[Estimator],
  judged: Judged,
  truths: Truths,
  shares: np.ndarray,
  scores: statistics.Scores,
) -> Iterator[Record]:
  """Errors of every estimator."""
  raw = statistics.parts(
    judged.advantages, truths, shares[0], np.ones(len(found))
  )
  scaled = statistics.parts(
    judged.advantages, truths, shares[0], scores.scale[0]
  )
  for p, estimator in enumerate(found):
    record: Record = {
      'estimator': estimator.name,
      'variant': estimator.variant,
      'form': estimator.form,
      'weighting': estimator.weighting,
      'alpha': np.nan if estimator.alpha is None else estimator.alpha,
    }
    for name in ('bias', 'squared_bias', 'variance'):
      record[name] = getattr(raw, name)[p]
    record |= _with_interval('mse', scores.mse[:, p])
    record['scale'] = scores.scale[0, p]
    for name in ('squared_bias', 'variance'):
      record[f'scaled_{name}'] = getattr(scaled, name)[p]
    record |= _with_interval('scaled_mse', scores.scaled_mse[:, p])
    record |= _with_interval('explained', scores.explained[:, p])
    said = judged.advantages[p]
    record['rank'] = statistics.rank_correlation(said, truths)
    record['sign'], record['sign_balanced'], record['sign_steps'] = (
      statistics.sign_accuracy(said, truths)
    )
    record['silent'] = float(truths.weight @ (said == 0).mean(1)) / float(
      truths.weight.sum()
    )
    yield record


def _with_interval(name: str, draws: np.ndarray) -> Record:
  found = bootstrap.interval(draws[0], draws[1:])
  return {
    name: found.mean,
    f'{name}_low': found.low,
    f'{name}_high': found.high,
  }


_VERDICTS = {0: 'no difference', 1: 'better', -1: 'worse'}
# (first, second): is the first nearer to the truth?
PAIRS = (('hgpo', 'gigpo'), ('hgpo', 'grpo'), ('hgpo_shrink', 'hgpo'))


def main_alpha(alphas: Sequence[float]) -> float:
  """The exponent that HGPO is compared at: the paper's 1, if it is there."""
  return 1.0 if 1.0 in alphas else alphas[0]


def _comparisons(
  found: Sequence[Estimator], alphas: Sequence[float], scores: statistics.Scores
) -> Iterator[Record]:
  """Paired differences, first less second, over the same resamples.

  The raw error compares mean-only forms, which are in reward units; the share
  explained after each estimator's own scale compares both forms.
  """
  place = {
    (estimator.name, estimator.form): p
    for p, estimator in enumerate(found)
    if not estimator.variant
    and estimator.weighting in ('', 'released')
    and estimator.alpha in (None, main_alpha(alphas))
  }
  for (first, second), form, measure in itertools.product(
    PAIRS, ('mean', 'mean_std'), ('mse', 'explained')
  ):
    if measure == 'mse' and form != 'mean':
      continue
    draws = getattr(scores, measure)
    apart = draws[:, place[first, form]] - draws[:, place[second, form]]
    record = _with_interval('difference', apart)
    sign = Interval(*record.values()).sign * (-1 if measure == 'mse' else 1)
    yield {
      'first': first,
      'second': second,
      'form': form,
      'measure': measure,
      **record,
      'verdict': _VERDICTS[sign],
    }


def _levels(cases: Cases, judged: Judged, truths: Truths) -> Iterator[Record]:
  """What the levels of contexts join."""
  for k in range(judged.level.shape[0]):
    grouped = judged.size[k] > 1
    own = statistics.level_bias(judged.level[k], grouped, truths)
    state = statistics.level_bias(judged.level[0], grouped, truths)
    gap = statistics.value_gap(cases, k)
    yield {
      'level': k,
      'share_grouped': judged.share_grouped[k],
      'share_spread': judged.share_spread[k],
      'mean_size': judged.mean_size[k],
      'steps': own.steps,
      'bias_rms': own.rms,
      'variance': own.variance,
      'state_bias_rms': state.rms,
      'state_variance': state.variance,
      'members': gap.members,
      'value_gap_rms': gap.rms,
      'value_gap_mean': gap.mean,
    }


def joined(tables: Sequence[Tables]) -> Tables:
  """The tables of several players, one below the other."""
  return Tables(
    *(
      pd.concat(frames, ignore_index=True)
      for frames in zip(*tables, strict=True)
    )
  )


def write_csv(path: pathlib.Path, table: pd.DataFrame) -> None:
  """Writes a table; five digits, nothing for NaN."""
  table.to_csv(path, index=False, float_format='%.5g', lineterminator='\n')
