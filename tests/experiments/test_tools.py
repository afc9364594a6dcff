"""What reports and benchmarks share: runs, intervals, tables, timing."""

import pathlib

import numpy as np
import pandas as pd
import pytest

from experiments import bootstrap, markdown, reported
from experiments.bench import harness
from experiments.bootstrap import Interval
from experiments.configs import compare
from experiments.reported import Figure

RESULTS = pathlib.Path(__file__).resolve().parents[2] / 'experiments/results'


def test_figures_and_intervals_are_written_with_their_spread():
  assert f'{Figure(92.77)}' == '92.77'
  assert f'{Figure(54.4, 3.1):g}' == ('54.4 ± 3.1')
  assert f'{reported.figure_of([1.0, 3.0]):.1f}' == '2.0 ± 1.4'
  assert reported.figure_of(np.array([2.0])) == (2.0, None)
  assert f'{Interval(1, -0.5, 2):+.1f}' == '+1.0 [-0.5, +2.0]'


@pytest.mark.parametrize(
  ('low', 'high', 'sign'), [(0.1, 2, 1), (-2, -0.1, -1), (-1, 1, 0), (0, 1, 0)]
)
def test_an_interval_that_contains_0_has_no_sign(low, high, sign):
  assert Interval((low + high) / 2, low, high).sign == sign


def test_an_interval_is_the_middle_of_the_draws():
  draws = np.arange(1001.0)
  assert bootstrap.interval(7.0, draws) == (7.0, 25.0, 975.0)


def test_a_table_of_texts():
  text = markdown.table(['a', 'b'], iter([['1', ''], ('x', 'y')]))
  assert text == '| a | b |\n|---|---|\n| 1 |  |\n| x | y |'


def rows(text, title):
  """First cell -> the others of a committed report's table."""
  lines = text.split(f'{title}\n\n')[1].split('\n\n')[0].splitlines()
  cells = [[x.strip() for x in line.split('|')[1:-1]] for line in lines[2:]]
  return {first: rest for first, *rest in cells}


@pytest.mark.parametrize(
  ('split', 'title'),
  [
    ('valid_seen', '### In distribution (valid_seen)'),
    ('valid_unseen', '### Out of distribution (valid_unseen)'),
  ],
)
def test_the_committed_comparison_says_what_its_csv_says(split, title):
  folder = RESULTS / 'comparison'
  found = rows((folder / 'report.md').read_text(), title)
  table = pd.read_csv(folder / 'table.csv')
  table = table[(table['split'] == split) & (table['phase'] == 'final')]
  won = (table['success'] * table['games']).round()  # exact, unlike 4 digits
  table = table.assign(success=100 * won / table['games'])
  for method, of_method in table.groupby('method'):
    expected = [
      f'{reported.figure_of(x["success"]):.1f}'
      for _, x in of_method.groupby('column', sort=False)
    ]
    assert found[compare.METHODS[method].label] == ['3', *expected]


def test_the_committed_lab_says_what_its_csv_says():
  folder = RESULTS / 'advantage_lab'
  text = (folder / 'report.md').read_text()
  table = pd.read_csv(folder / 'comparisons.csv')
  found = rows(text, '## Who is nearer to the truth')
  for key, cells in table.groupby(['first', 'second', 'form', 'measure']):
    first, second, form, measure = key
    named = {'mse': 'error', 'explained': 'explained share'}[measure]
    counts = [
      sum(cells['verdict'] == x) for x in ('better', 'worse', 'no difference')
    ]
    expected = [f'{x}' for x in (*counts, len(cells))]
    assert found[f'{first} less {second}: {named}, {form}'] == expected


def test_calls_take_turns_and_the_first_of_each_is_not_timed():
  made = []
  medians = harness.median_seconds(
    2, one=lambda: made.append(1), two=lambda: made.append(2)
  )
  assert made == [1, 2, 1, 2, 1, 2]
  assert medians.keys() == {'one', 'two'}
  assert min(medians.values()) >= 0


def test_a_stopwatch_has_medians_and_rates():
  times = iter([0.0, 1.0, 5.0, 8.0, 10.0, 12.0])
  watch = harness.Stopwatch(lambda: next(times))
  assert [watch('call', max, i, 1) for i in range(3)] == [1, 1, 2]
  assert watch.median('call') == 2.0
  assert watch.rate('call') == 0.5


def test_results_are_lines_and_tables():
  text = harness.text({'rate': 1234.0, 'table': [{'x': 'a', 'y': 2.0}]})
  assert text.splitlines()[0].split() == ['rate', '1,234']
  assert text.splitlines()[-1].split() == ['a', '2']
