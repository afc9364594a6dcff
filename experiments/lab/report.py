"""The lab's findings in words: who is nearer to the truth, and where."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import pandas as pd

from experiments import markdown
from experiments.bootstrap import Interval
from experiments.lab.tables import Record, Tables

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
  provenance: str,
  figures: Iterable[str],
) -> str:
  """The report, in Markdown.

  Args:
    tables: of all cells.
    alpha: that HGPO is compared at.
    provenance: when, where and by which commands.
    figures: file names beside the report.
  """
  parts = [
    '# Advantage lab: estimators beside the true advantage',
    provenance,
    _ABOUT.format(alpha=alpha),
    '## Players\n\n' + _table(tables.players, _PLAYERS),
    '## Who is nearer to the truth\n\n' + _summary(tables.comparisons),
    *(
      f'### {_title(*key)}\n\n' + _matrix(cells)
      for key, cells in tables.comparisons.groupby(_COMPARISON, sort=False)
    ),
    '## Mean squared error, mean-only forms\n\n'
    + _estimators(tables.cells, 'mse'),
    '## Explained share\n\n' + _estimators(tables.cells, 'explained'),
    '## Scale\n\n'
    'What an estimate is multiplied by to be nearest to the truth.\n\n'
    + _estimators(tables.cells, 'scale'),
    '## Rank correlation\n\n' + _estimators(tables.cells, 'rank'),
    '## Sign accuracy, good and bad steps alike\n\n'
    + _estimators(tables.cells, 'sign_balanced'),
    '## Contexts\n\n' + _LEVELS + _levels(tables.levels),
    '## Figures\n\n' + '\n'.join(f'![{x}]({x})' for x in figures),
  ]
  return '\n\n'.join(part.rstrip() for part in parts) + '\n'


# Head of a column -> its field, and its format.
_PLAYERS = {
  'skill': ('skill', 'g'),
  'K': ('depth', 'd'),
  'success': ('success', '.0%'),
  'turns': ('turns', '.1f'),
  'steps': ('steps', 'd'),
  'effective': ('effective_steps', '.0f'),
  'rms A': ('advantage_rms', '.3f'),
  'rms error of A': ('error_rms', '.3f'),
  'beyond 2 errors': ('clear', '.0%'),
  'A > 0': ('good', '.0%'),
}
_LEVEL_COLUMNS = {
  'skill': ('skill', 'g'),
  'k': ('level', 'd'),
  'grouped': ('share_grouped', '.1%'),
  'spread': ('share_spread', '.1%'),
  'mean size': ('mean_size', '.2f'),
  'gap': ('value_gap_rms', '.2f'),
  'steps': ('steps', 'd'),
  'bias': ('bias_rms', '.2f'),
  'state': ('state_bias_rms', '.2f'),
  'variance': ('variance', '.2f'),
  'state variance': ('state_variance', '.2f'),
}
_COMPARISON = ['first', 'second', 'form', 'measure']


def _table(frame: pd.DataFrame, columns: Mapping[str, tuple[str, str]]) -> str:
  """A row of Markdown per row of a table; '-' for NaN."""

  def cell(number: float, spec: str) -> str:
    return '-' if math.isnan(number) else f'{number:{spec}}'

  return markdown.table(
    columns,
    (
      [cell(record[name], spec) for name, spec in columns.values()]
      for record in frame.to_dict('records')
    ),
  )


def _title(first: str, second: str, form: str, measure: str) -> str:
  named = {'mse': 'error', 'explained': 'explained share'}[measure]
  return f'{first} less {second}: {named}, {form}'


def _summary(comparisons: pd.DataFrame) -> str:
  """In how many cells the first of a pair is better or worse."""
  rows = []
  for key, cells in comparisons.groupby(_COMPARISON, sort=False):
    verdicts = list(cells['verdict'])
    counts = map(verdicts.count, ('better', 'worse', 'no difference'))
    rows.append([_title(*key), *map(str, counts), str(len(verdicts))])
  head = ('comparison', 'better', 'worse', markdown.NO_DIFFERENCE, 'cells')
  return markdown.table(head, rows)


def _matrix(comparisons: pd.DataFrame) -> str:
  """Differences, a row per player and a column per group size."""
  texts = []
  for x in comparisons.to_dict('records'):
    apart = Interval(*(x[f'difference{end}'] for end in ('', '_low', '_high')))
    words = _WORDS.get((x['measure'], x['verdict']), markdown.NO_DIFFERENCE)
    texts.append(f'{apart:+.3f} {words}')
  wide = comparisons.assign(text=texts).pivot(
    index=['skill', 'depth'], columns='group_size', values='text'
  )
  return markdown.table(
    ('skill', 'K', *(f'G = {size}' for size in wide.columns)),
    (
      [f'{skill:g}', f'{depth}', *row]
      for (skill, depth), *row in wide.itertuples(name=None)
    ),
  )


def _estimators(cells: pd.DataFrame, measure: str) -> str:
  """All estimators, a column per player, at the largest group size."""
  size = cells['group_size'].max()
  cells = cells[cells['group_size'] == size]
  if measure == 'mse':
    cells = cells[cells['form'] == 'mean']
  cells = cells.assign(name=[_name(x) for x in cells.to_dict('records')])
  wide = cells.pivot(index='name', columns=['skill', 'depth'], values=measure)
  wide = wide.loc[cells['name'].unique()]
  return f'At G = {size}; columns are skill, K.\n\n' + markdown.table(
    ('estimator', *(f'{skill:g}, {depth}' for skill, depth in wide.columns)),
    (
      [name, *(f'{x:.3f}' for x in row)]
      for name, *row in wide.itertuples(name=None)
    ),
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


def _levels(levels: pd.DataFrame) -> str:
  """The deepest window and the largest groups show all levels."""
  depth, size = levels['depth'].max(), levels['group_size'].max()
  shown = levels[(levels['depth'] == depth) & (levels['group_size'] == size)]
  return f'K = {depth}, G = {size}.\n\n' + _table(shown, _LEVEL_COLUMNS)
