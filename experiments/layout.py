"""Finished runs of the paper's cells in the paper's layout.

Numbers are percent: mean ± sample standard deviation over the n evaluations
(seeds of sampling, and of training where there are several).
"""

from __future__ import annotations

import collections
import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from experiments import reported
from experiments.configs import paper
from experiments.finished import Run

MISSING, UNREPORTED = 'missing', '-'
_CSV = ('cell', 'split', 'column', 'n', 'mean', 'std', 'reported', 'changes')


class Column(NamedTuple):
  """What stands in one column.

  Attributes:
    label: its head.
    world, split: where it was played.
    kind: the type of task, '' for all of them.
    key: of a result of `evaluate.summarise`; `task_score` is the mean of the
      world's own score, in [0, 1], where it has one.
    measure: field of `reported.Row`; '' where papers report none.
  """

  label: str
  world: str
  split: str
  kind: str = ''
  key: str = 'success'
  measure: str = ''


def _alfworld(split: str, measure: str) -> tuple[Column, ...]:
  types = reported.COLUMNS.items()
  return (
    *(Column(label, 'alfworld', split, kind) for kind, label in types),
    Column('All', 'alfworld', split, measure=measure),
  )


TABLES: dict[str, tuple[Column, ...]] = {
  'ALFWorld, in distribution': _alfworld('valid_seen', 'seen'),
  'ALFWorld, out of distribution': _alfworld('valid_unseen', 'unseen'),
  'WebShop': (
    Column('Score', 'webshop', 'test', key='task_score', measure='score'),
    Column('Success', 'webshop', 'test', measure='success'),
  ),
}


def values(runs: Iterable[Run], column: Column) -> list[float]:
  """Lists a column's numbers in percent, one per evaluation that has it."""
  found = []
  for run in runs:
    result = run.final.get(column.split, {}).get(str(paper.TEMPERATURE), {})
    for seed in result.get('by_seed', {}).values():
      row = seed['by_type'].get(column.kind, {}) if column.kind else seed
      if column.key in row:
        found.append(100 * row[column.key])
  return found


def markdown(runs: Sequence[Run]) -> str:
  """Writes the tables, and below them what the marks in them mean."""
  of_cell = collections.defaultdict(list)
  for run in runs:
    of_cell[run.cell].append(run)
  sources: dict[str, int] = {}  # in the order in which they are cited
  lines = []
  for size in paper.SIZES:
    heading = f'### Qwen2.5-{size.upper()}'
    for title, columns in TABLES.items():
      lines += [f'{heading}: {title}', '']
      lines += [*_table(size, columns, of_cell, sources), '']
    lines += [f'{heading}: reported without a K', '']
    lines += [*_without_history(size, sources), '']
  lines += [f'[{number}] {source}  ' for source, number in sources.items()]
  lines += [
    f'\\* {run.folder}: {"; ".join(run.changes)} (cell -> run)  '
    for run in runs
    if run.changes
  ]
  return '\n'.join([*lines, ''])


def _table(
  size: str,
  columns: Sequence[Column],
  of_cell: Mapping[paper.Cell, Sequence[Run]],
  sources: dict[str, int],
) -> list[str]:
  head = ['Method', 'n']
  for column in columns:
    head += [column.label, *['reported'] * bool(column.measure)]
  rows = []
  for cell in paper.CELLS.values():
    if (cell.size, cell.world) != (size, columns[0].world):
      continue
    runs = of_cell.get(cell, ())
    row = [_label(cell) + ' \\*' * any(run.changes for run in runs)]
    row.append(str(len(values(runs, columns[-1]))))
    for column in columns:
      row.append(_ours(values(runs, column)))
      if column.measure:
        row.append(_cited(_reported(cell, column), column.measure, sources))
    rows.append(row)
  return _lines([head, *rows])


def _without_history(size: str, sources: dict[str, int]) -> list[str]:
  """Reported numbers that belong to no cell, as their source names no K."""
  measures = {'alfworld': 'ALFWorld', 'score': 'Score', 'success': 'Success'}
  rows = [
    [_method(row.method), *(_cited([row], m, sources) for m in measures)]
    for row in reported.ROWS
    if (row.size, row.history) == (size, None)
  ]
  return _lines([['Method', *measures.values()], *rows])


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
  head, *rest = [f'| {" | ".join(row)} |' for row in rows]
  return [head, '|---' * len(rows[0]) + '|', *rest]


def _method(name: str) -> str:
  first, *variant = name.split(',')
  return ','.join([first.upper().replace('GIGPO', 'GiGPO'), *variant])


def _label(cell: paper.Cell) -> str:
  label = f'{_method(cell.method)}, K = {cell.history}'
  return label if cell.alpha == 1 else f'{label}, alpha = {cell.alpha:g}'


def _ours(numbers: Sequence[float]) -> str:
  if not numbers:
    return MISSING
  std = statistics.stdev(numbers) if len(numbers) > 1 else None
  return _text(reported.Figure(statistics.mean(numbers), std), digits=2)


def _text(figure: reported.Figure, digits: int) -> str:
  text = f'{figure.mean:.{digits}f}'
  return text if figure.std is None else f'{text} ± {figure.std:.{digits}f}'


def _reported(cell: paper.Cell, column: Column) -> Sequence[reported.Row]:
  """The rows that report a column of a cell; none has the ablation's."""
  if cell.alpha != 1 or not column.measure:
    return ()
  return (
    reported.find((cell.method, cell.size, cell.history), column.measure) or ()
  )


def _cited(
  rows: Sequence[reported.Row], measure: str, sources: dict[str, int]
) -> str:
  """Writes what the rows report of a measure, with the source's number."""
  found = []
  for row in rows:
    figure = getattr(row, measure)
    if figure:
      number = sources.setdefault(row.source, len(sources) + 1)
      digits = 2 if row.history else 1  # as many as the source has
      found.append(f'{_text(figure, digits)} [{number}]')
  return ', '.join(found) or UNREPORTED


def csv_lines(runs: Sequence[Run]) -> str:
  """Writes a line for each cell and column, empty where nothing is known."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator='\n')
  writer.writerow(_CSV)
  for cell in paper.CELLS.values():
    own = [run for run in runs if run.cell == cell]
    for column in (c for table in TABLES.values() for c in table):
      if column.world == cell.world:
        writer.writerow(_record(cell, column, own))
  return out.getvalue()


def _record(
  cell: paper.Cell, column: Column, runs: Sequence[Run]
) -> list[object]:
  numbers = values(runs, column)
  figures = {  # sources that agree are named once
    str(getattr(row, column.measure).mean): row.source
    for row in _reported(cell, column)
  }
  return [
    cell.name,
    column.split,
    column.label,
    len(numbers),
    round(statistics.mean(numbers), 2) if numbers else MISSING,
    round(statistics.stdev(numbers), 2) if len(numbers) > 1 else '',
    ' or '.join(figures) or UNREPORTED,
    '; '.join(change for run in runs for change in run.changes),
  ]
