"""The advantage lab's statistics and tables, beside hand numbers and loops."""

import csv
import re

import jax
import numpy as np
import pytest
from absl import app, flags
from absl.testing import flagsaver

from experiments import advantage_lab, bootstrap
from experiments.lab import estimates, tables
from experiments.lab import statistics as stats
from experiments.lab.cells import LabError
from experiments.lab.play import Rules
from hgpo_jax.advantages import ESTIMATORS, check
from tests import references
from tests.alfworld_data import need_package

RULES = Rules(depth=1, max_turns=6, gamma=0.95, reward=10, hidden=frozenset())
# The small lab's, so that they are compiled once.
ESTIMATED = estimates.estimators(1, [1.0], 10.0)


def random_estimates(seed, methods=2, steps=40, replicates=5):
  """Estimates, noisy truths, and the exact ones."""
  rng = np.random.default_rng(seed)
  exact = rng.normal(size=steps)
  error = rng.uniform(0, 0.3, steps)
  said = exact[:, None] + rng.normal(1, 2, (methods, steps, replicates))
  measured = exact + error * rng.normal(size=steps)
  return said, stats.Truths(measured, error, rng.uniform(1, 5, steps)), exact


def test_errors_of_two_steps_by_hand():
  said = np.array([[[1.0, 3.0], [0.0, 0.0]]])  # one method, S = R = 2
  truths = stats.Truths(*map(np.array, ([1.0, -1.0], [0.0, 0.5], [3.0, 1.0])))
  share = np.array([0.75, 0.25])
  found = stats.scores(said, truths, share[None])
  assert found.mse == pytest.approx(0.75 * (0 + 4) / 2 + 0.25 * (1 - 0.25))
  own, cross, power = 0.75 * 5, 0.75 * 2, 0.75 * 1 + 0.25 * 0.75
  assert found.scale == pytest.approx(cross / own)
  assert found.scaled_mse == pytest.approx(power - cross**2 / own)
  assert found.explained == pytest.approx(cross**2 / own / power)
  parts = stats.parts(said, truths, share, np.ones(1))
  assert parts.bias == pytest.approx(0.75 * 1 + 0.25 * 1)
  assert parts.variance == pytest.approx(0.75 * 2)
  assert parts.squared_bias == pytest.approx(
    0.75 * (1 - 2 / 2) + 0.25 * (1 - 0.25)
  )


def test_bias_and_variance_make_the_error_and_the_scale_is_the_best():
  said, truths, _ = random_estimates(0)
  shares = stats.resamples(truths.weight, 3, 0)
  found = stats.scores(said, truths, shares)
  for scale, error in (
    (np.ones(2), found.mse[0]),
    (found.scale[0], found.scaled_mse[0]),
  ):
    parts = stats.parts(said, truths, shares[0], scale)
    np.testing.assert_allclose(parts.squared_bias + parts.variance, error)
  for factor in (0.9, 1.1):
    other = stats.scores(
      factor * found.scale[0, :, None, None] * said, truths, shares
    )
    assert (other.mse[0] > found.scaled_mse[0]).all()
    np.testing.assert_allclose(other.scaled_mse, found.scaled_mse)


def test_errors_are_free_of_the_noise_of_the_truth():
  noisy, exact = [], []
  for seed in range(200):
    said, truths, true = random_estimates(seed)
    shares = truths.weight[None] / truths.weight.sum()
    sure = truths._replace(advantage=true, error=0 * true)
    noisy.append(stats.scores(said, truths, shares).mse[0])
    exact.append(stats.scores(said, sure, shares).mse[0])
  apart = np.subtract(noisy, exact)
  assert (abs(apart.mean(0)) < 4 * apart.std(0) / np.sqrt(200)).all()


def test_resamples_draw_games_and_keep_their_weights():
  weight = np.array([1.0, 2.0, 5.0])
  shares = stats.resamples(weight, 4000, 1)
  np.testing.assert_allclose(shares.sum(1), 1)
  np.testing.assert_allclose(shares[0], weight / 8)
  np.testing.assert_array_equal(shares, stats.resamples(weight, 4000, 1))
  # The spread of a bootstrapped mean of n equal weights is sd / sqrt(n).
  values = np.random.default_rng(0).normal(size=100)
  draws = stats.resamples(np.ones(100), 4000, 0)[1:] @ values
  assert draws.std() == pytest.approx(values.std() / 10, rel=0.05)
  _, low, high = bootstrap.interval(0.0, draws)
  assert high - low == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.08)


def test_ranks_and_rank_correlation():
  ones = np.ones(4)
  np.testing.assert_allclose(
    stats.weighted_ranks(np.array([3.0, 1.0, 3.0, 2.0]), ones),
    [0.75, 0.125, 0.75, 0.375],
  )
  # Twice the weight is the same as being there twice.
  values = np.array([2.0, 1.0, 4.0])
  twice = stats.weighted_ranks(np.append(values, 2.0), ones)[:3]
  np.testing.assert_allclose(
    stats.weighted_ranks(values, np.array([2.0, 1.0, 1.0])), twice
  )
  true = stats.Truths(np.arange(4.0), 0 * ones, ones)
  said = np.array([[0, 1, 4, 9.0], [3, 2, 1, 0], [5, 5, 5, 5]]).T
  assert stats.rank_correlation(said, true) == pytest.approx(0)
  assert stats.rank_correlation(said[:, :1], true) == pytest.approx(1)
  # 1 - 6 sum d^2 / (n (n^2 - 1)), d = 0, 1, 1, 0.
  swapped = np.array([[0.0, 2.0, 1.0, 3.0]]).T
  assert stats.rank_correlation(swapped, true) == pytest.approx(0.8)


def test_signs_count_clear_steps_and_zeros_by_half():
  truths = stats.Truths(
    np.array([1.0, 2.0, -1.0, 0.1]), np.full(4, 0.2), np.array([3.0, 1, 1, 9])
  )
  said = np.array([[1.0, 2.0], [-1.0, 3.0], [-1.0, 0.0], [-1.0, -1.0]])
  share, balanced, count = stats.sign_accuracy(said, truths)
  assert count == 3
  assert share == pytest.approx((3 * 1 + 0.5 + 0.75) / 5)
  assert balanced == pytest.approx(((3 * 1 + 0.5) / 4 + 0.75) / 2)
  assert np.isnan(
    stats.sign_accuracy(said, truths._replace(error=np.ones(4)))[0]
  )


def test_bias_of_a_level_counts_its_groups_only():
  rng = np.random.default_rng(0)
  truths = stats.Truths(rng.normal(size=300), np.full(300, 0.3), np.ones(300))
  exact = truths.advantage - 0.3 * rng.normal(size=300)
  grouped = rng.random((300, 40)) < 0.5
  values = exact[:, None] + 2 * rng.normal(size=(300, 40))
  values[~grouped] = 99
  found = stats.level_bias(values, grouped, truths)
  assert found.steps == 300
  assert found.variance == pytest.approx(4, rel=0.05)
  assert found.rms < 0.25
  off = stats.level_bias(values + 1.5, grouped, truths)
  assert off.rms == pytest.approx(1.5, abs=0.15)
  assert stats.level_bias(values, grouped & False, truths).steps == 0


def test_value_gap_by_hand():
  cell = {
    'weight': np.array([1.0, 3.0]),
    'value': np.array([1.0, 2.0]),
    'value_error': np.array([0.5, 0.0]),
    'member_value': np.array([[3.0, 1.0], [2.0, 7.0]]),
    'member_error': np.zeros((2, 2)),
    'member_depth': np.array([[2, 0], [1, -1]]),
  }
  state, deep = (stats.value_gap(cell, k) for k in (0, 1))
  assert state.members == 3
  assert deep.members == 2
  assert deep.rms == pytest.approx(np.sqrt((4 - 0.25) / 4))
  assert deep.mean == pytest.approx(0.5)
  assert state.rms == pytest.approx(np.sqrt((4 - 0.25 + 0 - 0.25) / 5))


def random_cell(seed, cases=3, replicates=2, episodes=4, turns=6):
  rng = np.random.default_rng(seed)
  shape = cases, replicates, episodes
  length = rng.integers(2, turns + 1, shape)
  there = np.arange(turns) < length[..., None]
  return {
    'turn': rng.integers(0, 2, cases),
    'obs': np.where(there, rng.integers(0, 3, (*shape, turns)), -1),
    'act': np.where(there, rng.integers(0, 3, (*shape, turns)), -1),
    'length': length,
    'success': rng.random(shape) < 0.6,
  }


def test_rows_of_groups_have_discounted_returns_and_keep_the_contract():
  cell = random_cell(0)
  [(rows, at)] = estimates.batches(cell, RULES, 4, 8)
  check(rows)
  assert rows.mask.sum() == cell['length'].sum()
  assert rows.mask.shape == (192,)
  returns = rows.returns.reshape(-1, 6)  # episodes of at most 6 turns
  for e, length in enumerate(cell['length'].reshape(-1)):
    expected = 10.0 * cell['success'].reshape(-1)[e]
    for t in reversed(range(length)):
      assert returns[e, t] == pytest.approx(expected, rel=1e-6)
      expected *= 0.95
  np.testing.assert_array_equal(rows.turn[at], np.repeat(cell['turn'], 2))
  assert (np.asarray(rows.traj)[at] % 4 == 0).all()


def test_judged_groups_match_references_on_nested_groups():
  """The first G episodes of a group, judged as if there were no others."""
  cell = random_cell(1, turns=20)
  for group_size in (2, 4):
    judged = estimates.estimate(cell, RULES, group_size, ESTIMATED)
    [(rows, at)] = estimates.batches(cell, RULES, group_size, 6)
    for estimator, said in zip(ESTIMATED, judged.advantages, strict=True):
      reference = references.REFERENCES[estimator.name]
      expected = reference(rows, **dict(estimator.options))[at]
      np.testing.assert_allclose(said.reshape(-1), expected, atol=1e-3)


def test_estimators_name_what_they_run():
  assert {x.name for x in ESTIMATED} <= ESTIMATORS.keys()
  keys = [(x.name, x.form, x.weighting, x.alpha, x.variant) for x in ESTIMATED]
  assert len(set(keys)) == len(keys)
  assert {('hgpo', 'mean', 'released', 1.0, '')} < {*keys}


def test_a_small_lab_writes_everything_and_goes_on(tmp_path, capsys):
  need_package('alfworld')
  words = {
    'skills': ['0.6'],
    'depths': ['1'],
    'alphas': ['1'],
    'group_sizes': ['2', '4'],
    'steps': 4,
    'continuations': 6,
    'replicates': 2,
    'draws': 20,
    'workers': 1,
    'out': f'{tmp_path}',
  }
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # other commands' flags may be required
  with flagsaver.flagsaver(**words):
    advantage_lab.main()
    first = {x.name: x.read_bytes() for x in tmp_path.glob('*.csv')}
    assert '4 of 4 steps' in capsys.readouterr().out
    advantage_lab.main()
    assert 'of 4 steps' not in capsys.readouterr().out
    with (
      flagsaver.flagsaver(continuations=7),
      pytest.raises(LabError, match=r'continuations=6 \(now 7\)'),
    ):
      advantage_lab.main()
  assert first == {x.name: x.read_bytes() for x in tmp_path.glob('*.csv')}

  records = {
    name: list(csv.DictReader(data.decode().splitlines()))
    for name, data in first.items()
  }
  count = len(ESTIMATED)
  assert len(records['cells.csv']) == 2 * count
  assert len(records['levels.csv']) == 2 * 2
  assert len(records['steps.csv']) == 4
  verdicts = {x['verdict'] for x in records['comparisons.csv']}
  assert len(records['comparisons.csv']) == 2 * 3 * len(tables.PAIRS)
  assert verdicts <= {'better', 'worse', 'no difference'}
  report = (tmp_path / 'report.md').read_text()
  assert 'hgpo less gigpo' in report
  assert 'python -m' in report
  for figure in re.findall(r'!\[.*?\]\((.*?)\)', report):
    assert (tmp_path / figure).read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize(
  ('flag', 'words'),
  [
    ('group_sizes', ['1', '4']),
    ('alphas', ['0', 'b']),
    ('skills', ['0.3', 'nan']),
    ('depths', ['21']),
  ],
)
def test_flags_that_cannot_work_are_refused(tmp_path, flag, words):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # other commands' flags may be required
  with (
    flagsaver.flagsaver(out=f'{tmp_path}', **{flag: words}),
    pytest.raises(app.UsageError, match=f'Got --{flag}={",".join(words)}'),
  ):
    advantage_lab.main()
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('depth', [0, 1, 4])
def test_every_estimator_judges_windows_of_any_depth(depth):
  [(rows, _)] = estimates.batches(random_cell(0), RULES, 4, 6)
  for estimator in estimates.estimators(depth, [0.0, 2.0], 10.0):
    assert jax.eval_shape(estimator, rows).shape == rows.mask.shape
