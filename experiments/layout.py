"""Finished runs of the paper's cells in the paper's layout.

Numbers are percent: mean ± sample standard deviation over the n evaluations
(seeds of sampling, and of training where there are several).
"""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from experiments import markdown, reported
from experiments.configs import base, paper
from experiments.folders import RunFolder
from experiments.markdown import MISSING, UNREPORTED
from hgpo_jax import config as config_lib
from hgpo_jax.types import ConfigError


def gather(folder: pathlib.Path) -> list[RunFolder]:
  """Finds the finished runs of cells below a folder.

  Raises: ConfigError where there is no such folder, a run is of a cell that
    does not exist, or two runs are of one cell and seed.
  """
  if not folder.is_dir():
    raise ConfigError(
      f'{folder} does not exist; expected a folder that holds runs.'
    )
  by_key: dict[tuple[str, int], RunFolder] = {}
  for path in sorted(folder.rglob('summary.json')):
    run = RunFolder(path.parent)
    if not _is_of_a_cell(run):
      continue
    key = (run.cell, run.seed)
    if key in by_key:
      raise ConfigError(
        f'{by_key[key].path} and {run.path} both ran {key[0]} with seed '
        f'{key[1]}; expected one. Move the other out of {folder}.'
      )
    by_key[key] = run
  return list(by_key.values())


def _is_of_a_cell(run: RunFolder) -> bool:
  if not (run.path / 'config.json').exists():
    return False
  name = run.cell
  if not name or 'final' not in run.summary:
    return False
  if name not in paper.CELLS:
    raise ConfigError(
      f'{run.path} ran {name!r}, which is no cell of experiments/configs/'
      'paper.py. Move it away.'
    )
  return True


def changes(run: RunFolder) -> list[str]:
  """Lists the fields in which a run differs from its cell, for people."""
  cell = paper.get_config(run.cell).to_dict()
  return config_lib.differences(
    {**cell, base.SEED: run.seed},
    run.fields,
    config_lib.same_run,
    base.DEFAULT,
  )


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


def values(runs: Iterable[RunFolder], column: Column) -> list[float]:
  """Lists a column's numbers in percent, one per evaluation that has it."""
  numbers = []
  for run in runs:
    result = run.summary['final'].get(column.split, {})
    result = result.get(str(paper.TEMPERATURE), {})
    for seed in result.get('by_seed', {}).values():
      row = seed['by_type'].get(column.kind, {}) if column.kind else seed
      if column.key in row:
        numbers.append(100 * row[column.key])
  return numbers


def report(runs: Sequence[RunFolder]) -> str:
  """Writes the tables in Markdown, and below them what their marks mean."""
  of_cell = _by_cell(runs)
  sources: dict[str, int] = {}  # in the order in which they are cited
  lines = []
  for size in paper.SIZES:
    heading = f'### Qwen2.5-{size.upper()}'
    for title, columns in TABLES.items():
      lines += [f'{heading}: {title}', '']
      lines += [_table(size, columns, of_cell, sources), '']
    lines += [f'{heading}: reported without a K', '']
    lines += [_without_history(size, sources), '']
  lines += [f'[{number}] {source}  ' for source, number in sources.items()]
  lines += [
    f'\\* {run.path}: {"; ".join(changed)} (cell -> run)  '
    for run in runs
    if (changed := changes(run))
  ]
  return '\n'.join([*lines, ''])


def _by_cell(runs: Iterable[RunFolder]) -> Mapping[str, list[RunFolder]]:
  of_cell = collections.defaultdict(list)
  for run in runs:
    of_cell[run.cell].append(run)
  return of_cell


def _table(
  size: str,
  columns: Sequence[Column],
  of_cell: Mapping[str, Sequence[RunFolder]],
  sources: dict[str, int],
) -> str:
  head = ['Method', 'n']
  for column in columns:
    head += [column.label, *['reported'] * bool(column.measure)]
  rows = []
  for name, cell in paper.CELLS.items():
    if (cell.size, cell.world) != (size, columns[0].world):
      continue
    runs = of_cell.get(name, ())
    row = [_label(cell) + ' \\*' * any(map(changes, runs))]
    row.append(str(len(values(runs, columns[-1]))))
    for column in columns:
      numbers = values(runs, column)
      row.append(f'{reported.figure_of(numbers):.2f}' if numbers else MISSING)
      if column.measure:
        row.append(_cited(_reported(cell, column), column.measure, sources))
    rows.append(row)
  return markdown.table(head, rows)


def _without_history(size: str, sources: dict[str, int]) -> str:
  """Reported numbers that belong to no cell, as their source names no K."""
  measures = {'alfworld': 'ALFWorld', 'score': 'Score', 'success': 'Success'}
  rows = [
    [_method(row.method), *(_cited([row], m, sources) for m in measures)]
    for row in reported.ROWS
    if (row.size, row.history) == (size, None)
  ]
  return markdown.table(['Method', *measures.values()], rows)


def _method(name: str) -> str:
  first, *variant = name.split(',')
  return ','.join([first.upper().replace('GIGPO', 'GiGPO'), *variant])


def _label(cell: paper.Cell) -> str:
  label = f'{_method(cell.method)}, K = {cell.history}'
  return label if cell.alpha == 1 else f'{label}, alpha = {cell.alpha:g}'


def _reported(cell: paper.Cell, column: Column) -> Sequence[reported.Row]:
  """The rows that report a column of a cell; none has the ablation's."""
  if cell.alpha != 1 or not column.measure:
    return ()
  key = (cell.method, cell.size, cell.history)
  return reported.find(key, column.measure)


def _cited(
  rows: Sequence[reported.Row], measure: str, sources: dict[str, int]
) -> str:
  """Writes what the rows report of a measure, with the source's number."""
  cited = []
  for row in rows:
    figure = getattr(row, measure)
    if figure:
      number = sources.setdefault(row.source, len(sources) + 1)
      spec = '.2f' if row.history else '.1f'  # as many as the source has
      cited.append(f'{figure:{spec}} [{number}]')
  return ', '.join(cited) or UNREPORTED


def csv_lines(runs: Sequence[RunFolder]) -> str:
  """Writes a line for each cell and column, empty where nothing is known."""
  of_cell = _by_cell(runs)
  records = [
    _record(cell, column, of_cell.get(name, ()))
    for name, cell in paper.CELLS.items()
    for table in TABLES.values()
    for column in table
    if column.world == cell.world
  ]
  return pd.DataFrame(records).to_csv(index=False, lineterminator='\n')


def _record(
  cell: paper.Cell, column: Column, runs: Sequence[RunFolder]
) -> dict[str, Any]:
  numbers = values(runs, column)
  figures = {  # sources that agree are named once
    str(getattr(row, column.measure).mean): row.source
    for row in _reported(cell, column)
  }
  figure = reported.figure_of(numbers) if numbers else None
  return {
    'cell': cell.name,
    'split': column.split,
    'column': column.label,
    'n': len(numbers),
    'mean': round(figure.mean, 2) if figure else MISSING,
    'std': round(figure.std, 2) if figure and figure.std is not None else '',
    'reported': ' or '.join(figures) or UNREPORTED,
    'changes': '; '.join(x for run in runs for x in changes(run)),
  }
