"""The lab's findings in words: who is nearer to the truth, and where."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Sequence

from experiments.lab.tables import PAIRS, Record, Tables

_WORDS = {
  ('mse', 'better'): 'lower error',
  ('mse', 'worse'): 'higher error',
  ('explained', 'better'): 'explains more',
  ('explained', 'worse'): 'explains less',
}
_ABOUT = """\
Truth is A(h, a) = Q(h, a) - V(h) of the discounted return, h being the game's
state, the turn and the player's window of K turns, by Monte Carlo; errors are
free of the truth's own noise. Steps are weighted so that means are over the
rows of a batch. *Error* is the mean squared distance from the truth in reward
units, for the forms without a standard deviation. *Explained* is the share of
E[A^2] that an estimate explains after one least-squares scale for the cell (so
also the forms with one can be compared): 1 is the truth, 0 is noise. Brackets
are 95 % bootstrap intervals over games, paired where two methods are compared;
about one in twenty of them misses, so a lone verdict is no finding. HGPO is the
released weighting at alpha = {alpha:g} unless said. G: episodes in a group. An
error in reward units also judges the scale, on which a trainer's learning rate
has its say: GiGPO adds up two advantages, and a group that holds the step
itself shrinks what it says by (n - 1) / n. The explained share does not.
Estimators that whiten over a batch of several tasks, or learn from several
tasks at once, are not here: every group of episodes is a batch of its own.
"""


def write(
  tables: Tables,
  *,
  alpha: float,
  made: str,
  figures: Iterable[str],
) -> str:
  """The report, in Markdown.

  Args:
    tables: of all cells.
    alpha: that HGPO is compared at.
    made: when, where and by which commands.
    figures: file names beside the report.
  """
  parts = [
    '# Advantage lab: estimators beside the true advantage',
    made,
    _ABOUT.format(alpha=alpha),
    '## Players\n\n' + _players(tables.players),
    '## Who is nearer to the truth\n\n' + _summary(tables.comparisons),
    *(
      f'### {_title(key)}\n\n' + _matrix(records)
      for key, records in _grouped(tables.comparisons).items()
    ),
    '## Mean squared error, mean-only forms\n\n' + _methods(tables, 'mse'),
    '## Explained share\n\n' + _methods(tables, 'explained'),
    '## Scale\n\n'
    'What an estimate is multiplied by to be nearest to the truth.\n\n'
    + _methods(tables, 'scale'),
    '## Rank correlation\n\n' + _methods(tables, 'rank'),
    '## Sign accuracy, good and bad steps alike\n\n'
    + _methods(tables, 'sign_balanced'),
    '## Contexts\n\n' + _LEVELS + _levels(tables.levels),
    '## Figures\n\n' + '\n'.join(f'![{x}]({x})' for x in figures),
  ]
  return '\n\n'.join(part.rstrip() for part in parts) + '\n'


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  lines = [header, ['---'] * len(header), *rows]
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _players(records: Sequence[Record]) -> str:
  header = (
    'skill', 'K', 'success', 'turns', 'steps', 'effective', 'rms A',
    'rms error of A', 'beyond 2 errors', 'A > 0',
  )  # fmt: skip
  return _table(
    header,
    [
      (
        f'{x["skill"]:g}', f'{x["depth"]}', f'{x["success"]:.0%}',
        f'{x["turns"]:.1f}', f'{x["steps"]}', f'{x["effective_steps"]:.0f}',
        f'{x["advantage_rms"]:.3f}', f'{x["error_rms"]:.3f}',
        f'{x["clear"]:.0%}', f'{x["good"]:.0%}',
      )
      for x in records
    ],
  )  # fmt: skip


def _key(record: Record) -> tuple[str, ...]:
  return tuple(record[x] for x in ('first', 'second', 'form', 'measure'))


def _title(key: tuple[str, ...]) -> str:
  first, second, form, measure = key
  named = {'mse': 'error', 'explained': 'explained share'}[measure]
  return f'{first} less {second}: {named}, {form}'


def _grouped(records: Sequence[Record]) -> dict[tuple[str, ...], list[Record]]:
  """Comparison -> its cells, in the order of `PAIRS`."""
  found: dict[tuple[str, ...], list[Record]] = collections.defaultdict(list)
  for record in records:
    found[_key(record)].append(record)
  return dict(
    sorted(found.items(), key=lambda x: PAIRS.index((x[0][0], x[0][1])))
  )


def _summary(records: Sequence[Record]) -> str:
  """In how many cells the first of a pair is better or worse."""
  rows = []
  for key, cells in _grouped(records).items():
    count = collections.Counter(x['verdict'] for x in cells)
    rows.append(
      (
        _title(key),
        *(f'{count[x]}' for x in ('better', 'worse', 'no difference')),
        f'{len(cells)}',
      )
    )
  header = ('comparison', 'better', 'worse', 'no difference seen', 'cells')
  return _table(header, rows)


def _matrix(records: Sequence[Record]) -> str:
  """Differences, a row per player and a column per group size."""
  sizes = sorted({x['group_size'] for x in records})
  rows: dict[tuple[float, int], dict[int, str]] = {}
  for x in records:
    said = _WORDS.get((x['measure'], x['verdict']), 'no difference seen')
    rows.setdefault((x['skill'], x['depth']), {})[x['group_size']] = (
      f'{x["difference"]:+.3f} [{x["difference_low"]:+.3f}, '
      f'{x["difference_high"]:+.3f}] {said}'
    )
  return _table(
    ('skill', 'K', *(f'G = {size}' for size in sizes)),
    [
      (f'{skill:g}', f'{depth}', *(cells[size] for size in sizes))
      for (skill, depth), cells in rows.items()
    ],
  )


def _methods(tables: Tables, measure: str) -> str:
  """All methods, a column per player, at the largest group size."""
  size = max(x['group_size'] for x in tables.cells)
  columns: list[tuple[float, int]] = []
  rows: dict[str, dict[tuple[float, int], str]] = {}
  for x in tables.cells:
    if x['group_size'] != size or (measure == 'mse' and x['form'] != 'mean'):
      continue
    player = x['skill'], x['depth']
    if player not in columns:
      columns.append(player)
    rows.setdefault(_name(x), {})[player] = f'{x[measure]:.3f}'
  header = [f'{skill:g}, {depth}' for skill, depth in columns]
  return f'At G = {size}; columns are skill, K.\n\n' + _table(
    ('estimator', *header),
    [(name, *(cells[x] for x in columns)) for name, cells in rows.items()],
  )


def _name(record: Record) -> str:
  words = [record['estimator']]
  if record['weighting']:
    words.append(f'{record["weighting"]} alpha {record["alpha"]:g}')
  if record['variant']:
    words.append(f'with {record["variant"]}')
  return ', '.join([*words, record['form']])


_LEVELS = """\
Level k joins rows of a task whose last k + 1 observations are equal. *Grouped*
and *spread*: share of rows in a group of two or more, and in one with different
returns. *Gap*: rms difference of the true value V between a step and others of
its group. *Bias*: rms distance from the true advantage of (return - mean of the
others in the group), averaged over replicates, over the *steps* that have such
a group; *state* is the same of the state alone, over the same rows; the
variances likewise.

"""


def _levels(records: Sequence[Record]) -> str:
  """The deepest window and the largest groups show all levels."""
  depth = max(x['depth'] for x in records)
  size = max(x['group_size'] for x in records)
  header = (
    'skill', 'k', 'grouped', 'spread', 'mean size', 'gap', 'steps', 'bias',
    'state', 'variance', 'state variance',
  )  # fmt: skip
  return f'K = {depth}, G = {size}.\n\n' + _table(
    header,
    [
      (
        f'{x["skill"]:g}', f'{x["level"]}', f'{x["share_grouped"]:.1%}',
        f'{x["share_spread"]:.1%}', f'{x["mean_size"]:.2f}',
        _known(x['value_gap_rms']), f'{x["steps"]}', _known(x['bias_rms']),
        _known(x['state_bias_rms']), _known(x['variance']),
        _known(x['state_variance']),
      )
      for x in records
      if x['depth'] == depth and x['group_size'] == size
    ],
  )  # fmt: skip


def _known(number: float) -> str:
  return '-' if math.isnan(number) else f'{number:.2f}'
