"""The lab's tables: lists of flat records, one list per file."""

from __future__ import annotations

import csv
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.lab import estimates, levels, statistics
from experiments.lab.cells import Cell, Player
from experiments.lab.estimates import Judged, Method
from experiments.lab.play import Rules
from experiments.lab.statistics import Truths

Record = dict[str, Any]

_STEP_FIELDS = (
  'turn', 'turns', 'won', 'action', 'weight', 'probability', 'taken',
  'taken_error', 'other', 'other_error', 'value', 'value_error', 'advantage',
  'advantage_error',
)  # fmt: skip


class Tables(NamedTuple):
  """Records of one cell, or of many: see the functions that make them."""

  players: list[Record]
  steps: list[Record]
  cells: list[Record]
  comparisons: list[Record]
  levels: list[Record]


def of_cell(
  player: Player,
  cell: Cell,
  rules: Rules,
  *,
  alphas: Sequence[float],
  group_sizes: Sequence[int],
  draws: int,
  seed: int,
) -> Tables:
  """Judges a cell with every method at every group size.

  Args:
    player: skill and depth.
    cell: its cases.
    rules: they were played by.
    alphas: HGPO's exponents.
    group_sizes: episodes in a group; smaller groups are parts of larger ones.
    draws: bootstrap resamples.
    seed: of the resampling.
  """
  truths = Truths(cell['advantage'], cell['advantage_error'], cell['weight'])
  found = estimates.methods(rules.depth, alphas, rules.reward)
  shares = statistics.resamples(truths.weight, draws, seed)
  tables = Tables([_player(cell, truths)], list(_steps(cell)), [], [], [])
  for group_size in group_sizes:
    judged = estimates.judge(cell, rules, group_size, found)
    scores = statistics.scores(judged.advantages, truths, shares)
    of_size = (
      list(_scores(found, judged, truths, shares, scores)),
      list(_comparisons(found, alphas, scores)),
      list(_levels(cell, judged, truths)),
    )
    for table, records in zip(tables[2:], of_size, strict=True):
      table += [{'group_size': group_size} | record for record in records]
  skill, depth = player
  return Tables(
    *([{'skill': skill, 'depth': depth} | x for x in table] for table in tables)
  )


def _player(cell: Cell, truths: Truths) -> Record:
  """What the player is like, and how well its steps' truths are known."""
  share = truths.weight / truths.weight.sum()
  power = share @ (truths.advantage**2 - truths.error**2)
  return {
    'steps': truths.weight.size,
    'effective_steps': 1 / (share @ share),
    'success': cell['success'][:, :, 1:].mean(),
    'turns': cell['length'][:, :, 1:].mean(),
    'advantage_rms': levels.root(power),
    'error_rms': np.sqrt(share @ truths.error**2),
    'clear': share @ (np.abs(truths.advantage) > 2 * truths.error),
    'good': share @ (truths.advantage > 0),
  }


def _steps(cell: Cell) -> Iterator[Record]:
  """The picked steps with their truths."""
  for index in range(cell['turn'].size):
    yield {'game': index} | {x: cell[x][index].item() for x in _STEP_FIELDS}


def _scores(
  found: Sequence[Method],
  judged: Judged,
  truths: Truths,
  shares: np.ndarray,
  scores: statistics.Scores,
) -> Iterator[Record]:
  """Errors of every method."""
  raw = statistics.parts(
    judged.advantages, truths, shares[0], np.ones(len(found))
  )
  scaled = statistics.parts(
    judged.advantages, truths, shares[0], scores.scale[0]
  )
  for p, method in enumerate(found):
    record: Record = {
      'estimator': method.name,
      'variant': method.variant,
      'form': method.form,
      'weighting': method.weighting,
      'alpha': '' if method.alpha is None else method.alpha,
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
  low, high = statistics.interval(draws[1:])
  return {name: draws[0], f'{name}_low': low, f'{name}_high': high}


# (first, second): is the first nearer to the truth?
PAIRS = (('hgpo', 'gigpo'), ('hgpo', 'grpo'), ('hgpo_shrink', 'hgpo'))


def main_alpha(alphas: Sequence[float]) -> float:
  """The exponent that HGPO is compared at: the paper's 1, if it is there."""
  return 1.0 if 1.0 in alphas else alphas[0]


def _comparisons(
  found: Sequence[Method], alphas: Sequence[float], scores: statistics.Scores
) -> Iterator[Record]:
  """Paired differences, first less second, over the same resamples.

  The raw error compares mean-only forms, which are in reward units; the share
  explained after each method's own scale compares both forms.
  """
  place = {
    (method.name, method.form): p
    for p, method in enumerate(found)
    if not method.variant
    and method.weighting in ('', 'released')
    and method.alpha in (None, main_alpha(alphas))
  }
  for (first, second), form, measure in itertools.product(
    PAIRS, ('mean', 'mean_std'), ('mse', 'explained')
  ):
    if measure == 'mse' and form != 'mean':
      continue
    draws = getattr(scores, measure)
    apart = draws[:, place[first, form]] - draws[:, place[second, form]]
    record = _with_interval('difference', apart)
    low, high = record['difference_low'], record['difference_high']
    better, worse = (high < 0, low > 0)
    if measure == 'explained':
      better, worse = worse, better
    yield {
      'first': first,
      'second': second,
      'form': form,
      'measure': measure,
      **record,
      'verdict': 'better' if better else 'worse' if worse else 'no difference',
    }


def _levels(cell: Cell, judged: Judged, truths: Truths) -> Iterator[Record]:
  """What the levels of contexts join."""
  for k in range(judged.level.shape[0]):
    grouped = judged.size[k] > 1
    own = levels.level_bias(judged.level[k], grouped, truths)
    state = levels.level_bias(judged.level[0], grouped, truths)
    gap = levels.value_gap(cell, k)
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
  """The records of several cells."""
  return Tables(
    *(list(itertools.chain(*records)) for records in zip(*tables, strict=True))
  )


def write_csv(path: pathlib.Path, records: Sequence[Mapping[str, Any]]) -> None:
  """Writes records of the same fields; five digits, nothing for NaN."""
  with path.open('w', newline='', encoding='utf-8') as file:
    writer = csv.DictWriter(file, [*records[0]], lineterminator='\n')
    writer.writeheader()
    for record in records:
      writer.writerow({name: _cell(value) for name, value in record.items()})


def _cell(value: Any) -> Any:
  if not isinstance(value, float | np.floating):
    return value
  return '' if np.isnan(value) else f'{value:.5g}'
