"""The comparison: its statistics, its runs and its report."""

import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from envs import registry
from envs.base import Task
from experiments import bootstrap, folders, reported
from experiments.comparison import gather, planned, plots, report, results
from experiments.comparison.tables import verdict
from experiments.configs import base, compare
from hgpo_jax import config as config_lib
from hgpo_jax import types
from hgpo_jax.train import evaluate

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILE = str(ROOT / 'experiments' / 'configs' / 'compare.py')
BUDGET = {'iterations': 3, 'eval.games': 24}
TYPES = registry.make_world('alfworld', {})
KINDS = [TYPES.kind(Task('valid_seen', i)) for i in range(24)]

# ---- statistics ----


def brute_force(values, draws, seed):
  """The bootstrap as a loop over redrawn rows and columns."""
  rng = np.random.default_rng(seed)
  seeds, games = values.shape
  means = []
  for _ in range(draws):
    rows = rng.integers(seeds, size=seeds - 1)
    columns = rng.integers(games, size=games - 1)
    means.append(values[rows][:, columns].mean())
  return np.percentile(means, [2.5, 97.5])


def test_interval_matches_redrawing_rows_and_columns():
  rng = np.random.default_rng(0)
  values = rng.integers(-1, 2, (3, 60)) + rng.normal(0, 0.3, (3, 1))
  found = bootstrap.pigeonhole(values)
  assert found.mean == pytest.approx(values.mean())
  slow = brute_force(values, 4000, seed=1)
  width = slow[1] - slow[0]
  np.testing.assert_allclose(found[1:], slow, atol=0.05 * width)


def test_interval_of_two_seeds_and_one_game_by_hand():
  # One of the two is drawn: the mean is 0 or 1, equally often.
  assert bootstrap.pigeonhole(np.array([[0.0], [1.0]])) == (0.5, 0.0, 1.0)


def test_redrawn_means_of_few_have_the_variance_of_a_mean():
  for shares in bootstrap._shares(3, 5, 40_000, 0):
    values = np.arange(shares.shape[1]) ** 2.0
    expected = values.var(ddof=1) / values.size
    assert np.var(shares @ values) == pytest.approx(expected, rel=0.03)
  assert (bootstrap._shares(1, 1, 9, 0)[0] == 1).all()


def test_equal_methods_show_no_difference_and_unlike_ones_do():
  won = np.random.default_rng(0).integers(0, 2, (3, 200)).astype(float)
  same = bootstrap.pigeonhole(won - won)
  assert same == (0, 0, 0)
  assert verdict(same) == 'no difference seen'
  worse = won * (np.arange(200) % 2)
  assert verdict(bootstrap.pigeonhole(won - worse)) == 'higher'
  assert verdict(bootstrap.pigeonhole(worse - won)) == 'lower'


def test_intervals_cover_the_truth_where_seeds_and_games_vary():
  rng = np.random.default_rng(0)
  hits = 0
  for _ in range(100):  # the mean is 0
    values = rng.normal(0, 0.03, (3, 1)) + rng.normal(0, 0.1, (1, 64))
    found = bootstrap.pigeonhole(values + rng.normal(0, 0.5, (3, 64)))
    hits += found.sign == 0
  assert hits >= 93


def test_curves_are_smoothed_and_banded_by_hand():
  rng = np.random.default_rng(0)
  curves = rng.random((2, 9))
  expected = [np.convolve(curve, np.ones(4) / 4, 'valid') for curve in curves]
  np.testing.assert_allclose(plots.smooth(curves, 4), expected)
  mean, half = plots.band(np.array([[1.0], [2.0], [3.0]]))
  assert mean == [2]
  assert half == pytest.approx(4.302653 / 3**0.5)
  assert plots.band(curves[:1])[1].tolist() == [0] * 9


# ---- runs ----

# Writes what a trainer writes; fails for seed 1, waits to be told for seed 2.
STUB = """
import json, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.default_int_handler)
flags = dict(x[2:].split('=', 1) for x in sys.argv[1:] if '=' in x)
folder = pathlib.Path(flags['config.run_dir'])
folder.mkdir(exist_ok=True)
seed = flags['config.seed']
try:
  if seed == '1':
    sys.exit('no such luck')
  (folder / 'argv').write_text(' '.join(sys.argv[1:]))
  time.sleep(60 * (seed == '2'))
  (folder / 'summary.json').write_text('{}')
except KeyboardInterrupt:
  (folder / 'stopped').touch()
  sys.exit(75)
"""


@pytest.fixture
def stub(tmp_path):
  path = tmp_path / 'stub.py'
  path.write_text(STUB)
  return sys.executable, str(path)


def make_runs(folder, methods=('rloo', 'hgpo_k4'), seeds=(0,), **budget):
  return planned.make_runs(
    FILE, methods, seeds, folder / 'runs', {**BUDGET, **budget}
  )


def save_config(planned_run, **changes):
  planned_run.folder.mkdir(parents=True, exist_ok=True)
  text = json.dumps({**planned_run.config, **changes})
  (planned_run.folder / 'config.json').write_text(text)


def test_methods_differ_in_their_overrides_alone():
  main = compare.get_config('hgpo_k2').to_dict()
  for name, method in compare.METHODS.items():
    config = compare.get_config(name).to_dict()
    changed = {
      text.split(':')[0]
      for text in config_lib.differences(
        main, config, lambda _: True, base.DEFAULT
      )
    }
    assert changed <= method.overrides.keys()
  assert set(compare.MAIN) <= set(compare.METHODS)
  with pytest.raises(ValueError, match='hgpo_k3'):
    compare.get_config('hgpo_k3')


def test_cells_have_equal_budgets_and_the_flags_that_say_so(tmp_path):
  planned_runs = make_runs(tmp_path, seeds=(0, 5))
  assert [planned_run.name for planned_run in planned_runs] == [
    'rloo_seed0', 'hgpo_k4_seed0', 'rloo_seed5', 'hgpo_k4_seed5',
  ]  # fmt: skip
  assert planned_runs[3].flags == (
    f'--config={FILE}:hgpo_k4',
    '--config.seed=5',
    f'--config.run_dir={tmp_path}/runs/hgpo_k4_seed5',
    '--config.iterations=3',
    '--config.eval.games=24',
  )
  assert planned_runs[3].config['env']['history'] == 4
  assert {planned_run.config['iterations'] for planned_run in planned_runs} == {
    3
  }
  assert make_runs(tmp_path, ['rloo'] * 2, (0, 0)) == planned_runs[:1]
  with pytest.raises(planned.CompareError, match='grpoo.*it holds ppo'):
    make_runs(tmp_path, methods=['grpoo'])
  with pytest.raises(planned.CompareError, match='eval.games is -1'):
    make_runs(tmp_path, **{'eval.games': -1})


def test_finished_runs_are_kept_and_interrupted_ones_resumed(tmp_path):
  new, begun, done = make_runs(tmp_path, ('rloo', 'hgpo_k2', 'hgpo_k4'))
  save_config(begun)
  save_config(done)
  (done.folder / 'summary.json').write_text('{}')
  assert planned.unfinished([new, begun, done]) == [new, begun]
  assert '--resume' not in planned.command(new)
  assert planned.command(begun)[-1] == '--resume'


@pytest.mark.parametrize('finished', [True, False])
def test_a_run_of_other_settings_is_refused(tmp_path, finished):
  (planned_run,) = make_runs(tmp_path, ['rloo'])
  save_config(planned_run, iterations=7)
  if finished:
    (planned_run.folder / 'summary.json').write_text('{}')
  with pytest.raises(planned.CompareError) as error:
    planned.unfinished([planned_run])
  assert 'iterations: 7 -> 3' in str(error.value)
  assert 'another --out' in str(error.value)


@pytest.mark.parametrize('jobs', [1, 2])
def test_play_goes_on_after_a_failure(tmp_path, stub, jobs):
  planned_runs = make_runs(tmp_path, ['rloo'], seeds=(0, 1, 3))
  said = []
  failed = planned.play(planned_runs, jobs, stub, said.append)
  assert failed == [planned_runs[1]] == planned.unfinished(planned_runs)
  assert any('rloo_seed1: failed' in x and 'no such luck' in x for x in said)
  argv = (planned_runs[2].folder / 'argv').read_text()
  assert argv == ' '.join(planned_runs[2].flags)


def test_an_interruption_is_passed_on_to_the_runs(tmp_path, stub):
  (planned_run,) = make_runs(tmp_path, ['rloo'], seeds=[2])

  def interrupt(text):
    if 'started' in text:
      while not (planned_run.folder / 'argv').exists():
        pass
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    planned.play([planned_run], 1, stub, interrupt)
  assert (planned_run.folder / 'stopped').exists()


# ---- report ----


def result(won):
  """What `evaluate.by_seed` says of games that were won or not."""
  nothing = np.zeros(0, np.int32)
  played = [
    types.Trajectory(
      task,
      (types.Turn(nothing, nothing, nothing, (), '', '', True, float(x)),),
      won=bool(x),
      truncated=False,
    )
    for task, x in enumerate(won)
  ]
  return evaluate.by_seed({123: played}, lambda task: KINDS[task])


def make_run(planned_run, won):
  """A folder as a finished run leaves it; `won` of 24 games in either split."""
  save_config(planned_run)
  splits = planned_run.config['eval']['splits']
  start = {split: {'0.4': result([0] * 24)} for split in splits}
  final = {split: {'0.4': result(won)} for split in splits}
  seconds = {'warm_start': 10, 'rollout': 20, 'update': 30, 'evaluation': 4}
  summary = {'warm_start': start, 'final': final, 'seconds': seconds}
  (planned_run.folder / 'summary.json').write_text(json.dumps(summary))
  lines = [{'step': i, 'rollout/success': i / 10} for i in range(3)]
  (planned_run.folder / 'metrics.jsonl').write_text(
    ''.join(json.dumps(line) + '\n' for line in lines)
  )


@pytest.fixture(scope='module')
def made_up(tmp_path_factory):
  """GRPO equals HGPO, RLOO wins nothing and lacks seed 1, GiGPO is missing."""
  folder = tmp_path_factory.mktemp('made_up')
  half, all_but_pick = [0, 1] * 12, [0, 1, 1, 1, 1, 1] * 4
  wins = {
    ('hgpo_k2', 0): half,
    ('hgpo_k2', 1): all_but_pick,
    ('grpo', 0): half,
    ('grpo', 1): all_but_pick,
    ('rloo', 0): [0] * 24,
    ('hgpo_k4', 0): [1] * 24,
    ('hgpo_k4', 1): [1] * 24,
  }
  for planned_run in make_runs(folder, ('hgpo_k2', 'grpo', 'rloo'), (0, 1)):
    if (planned_run.method, planned_run.seed) in wins:
      make_run(planned_run, wins[planned_run.method, planned_run.seed])
  for planned_run in make_runs(folder, ['hgpo_k4'], (0, 1)):
    make_run(planned_run, wins['hgpo_k4', planned_run.seed])
  return folder


def read(folder):
  names = ('rloo', 'grpo', 'gigpo', 'hgpo_k2', 'hgpo_k4')
  return results.Results(
    methods={name: compare.METHODS[name] for name in names},
    references=compare.REFERENCES,
    seeds=(0, 1),
    runs=gather.read(folder / 'runs', compare.METHODS),
    sessions=[
      {'date': 'today', 'commit': 'c0', 'cores': 2, 'cpu': 'X', 'command': 'go'}
    ],
  )


def section(text, start, stop='\n## '):
  return text.split(start, 1)[1].split(stop)[0]


def test_report_of_made_up_runs(made_up):
  text = report.write(read(made_up))
  # 50.0 and 83.3 on average; Pick, every sixth game, was never won.
  seen = section(text, '### In distribution', '###')
  assert '| HGPO (K=2) | 2 | 0.0 ± 0.0 | 100.0 ± 0.0 | 50.0 ± 70.7 |' in seen
  assert '| 66.7 ± 23.6 |\n' in seen
  assert '| GiGPO | 0 | missing | missing |' in seen
  assert '| RLOO | 1 | 0.0 | 0.0 |' in seen
  assert '| *warm start* | 2 |' in seen  # of all methods but planned_run
  assert '| *warm start* of HGPO (K=4) | 2 |' in seen
  assert 'rloo seed 1, gigpo seed 0, gigpo seed 1.' in text
  to_hgpo = section(text, '## Differences to HGPO (K=2)')
  assert (
    '| GRPO | 2 | +0.0 [+0.0, +0.0] | no difference seen | +0.0, +0.0 |'
    in to_hgpo
  )
  assert '| RLOO | 1 | -50.0 [' in to_hgpo
  assert '] | lower | -50.0 |' in to_hgpo
  assert '| GiGPO | 0 | missing | missing |  |' in to_hgpo
  assert '**+100.0 [+100.0, +100.0]**' in to_hgpo  # HGPO (K=4) on Pick
  assert '## Differences to GRPO' in text
  ours = section(text, '## Reported numbers')
  assert '| 66.7 ± 23.6 | 92.77 | 90.16 | - |' in ours
  assert '| - | - | 72.8 ± 3.6 | GiGPO' in ours
  cost = section(text, '## Cost')
  assert '| RLOO | 10 | 20 | 30 | 4 | 54 |' in cost
  assert 'today, commit c0, 2 cores of X: `go`' in cost


def test_types_of_games_are_those_of_the_summaries(made_up):
  found = read(made_up)
  run, masks = found.runs['hgpo_k2'][1], found.columns('valid_seen')
  outcomes = run.outcomes(results.FINAL, 'valid_seen')
  by_type = run.summary['final']['valid_seen']['0.4']['by_type']
  assert {kind: outcomes[mask].mean() for kind, mask in masks.items()} == {
    reported.COLUMNS[kind]: row['success'] for kind, row in by_type.items()
  } | {results.ALL: outcomes.mean()}


def test_csv_has_a_line_for_each_number(made_up):
  lines = read(made_up).csv().splitlines()
  assert lines[0] == 'method,seed,phase,split,column,games,success'
  assert len(lines) == 1 + 7 * 2 * 2 * 7  # runs, phases, splits, columns
  assert 'hgpo_k2,1,final,valid_unseen,All,24,0.8333' in lines


def test_several_seeds_of_sampling_are_averaged_per_game(made_up, tmp_path):
  run = read(made_up).runs['hgpo_k2'][0]
  shutil.copytree(run.path, tmp_path, dirs_exist_ok=True)
  config = {**run.fields, 'eval': {**run.fields['eval'], 'seeds': [1, 2]}}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  found = folders.RunFolder(tmp_path)
  expected = np.array([0, 1] * 12).reshape(2, 12).mean(0)
  np.testing.assert_array_equal(
    found.outcomes(results.FINAL, 'valid_seen'), expected
  )


def test_plot_is_drawn_without_some_runs(made_up):
  found = read(made_up)
  labels = {name: method.label for name, method in found.methods.items()}
  path = made_up / 'curves.png'
  plots.curves(path, labels, found.runs, 'hgpo_k2')
  plots.curves(path, labels, found.runs, 'gigpo')  # which has no runs
  assert path.read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('field', ['iterations', 'rollout.max_groups'])
def test_unequal_budgets_are_refused(made_up, tmp_path, field):
  shutil.copytree(made_up, tmp_path, dirs_exist_ok=True)
  (planned_run,) = make_runs(tmp_path, ['gigpo'], **{field: 90})
  make_run(planned_run, [1] * 24)
  with pytest.raises(planned.CompareError, match=f'{field}: .* -> '):
    read(tmp_path)


# ---- the command ----


def run(*arguments, ok=True):
  done = subprocess.run(
    [sys.executable, '-m', 'experiments.compare', *arguments],
    cwd=ROOT,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
  )
  assert (done.returncode == 0) == ok, done.stderr
  return done.stdout if ok else done.stderr


def test_report_only_gathers_and_copies(made_up):
  copies = made_up / 'copies'
  run('--report_only', f'--out={made_up}', f'--results={copies}')
  names = ['curves.png', 'report.md', 'table.csv']
  assert sorted(x.name for x in copies.iterdir()) == names
  text = (copies / 'report.md').read_text()
  assert '| PPO | 0 | missing |' in text  # all of MAIN stand there
  flags = ('--report_only', f'--out={made_up}', '--methods=grpoo')
  assert 'no method grpoo' in run(*flags, ok=False)


TOY = """
from experiments.configs import toy
from experiments.configs.compare import Method

METHODS = {
  name: Method(name.upper(), {'algo.estimator': name})
  for name in ('hgpo', 'rloo')
}
MAIN, REFERENCES = tuple(METHODS), ('hgpo',)


def get_config(method='hgpo'):
  c = toy.get_config()
  c.update_from_flattened_dict(METHODS[method].overrides)
  return c
"""


@pytest.mark.slow
def test_a_comparison_in_another_world_is_continued_by_a_seed(tmp_path):
  path = tmp_path / 'toy_methods.py'
  path.write_text(TOY)
  command = [
    f'--config={path}',
    '--iterations=2',
    '--eval_games=0',
    f'--out={tmp_path}',
  ]
  said = run(*command, '--seeds=0')
  assert '2 of 2 runs to play' in said
  said = run(*command, '--seeds=0,1')
  assert '2 of 4 runs to play' in said
  text = (tmp_path / 'report.md').read_text()
  assert '| RLOO | 2 |' in text
  assert '**missing**' not in text
  starts = list((tmp_path / 'runs' / 'cache').iterdir())
  assert len(starts) == 2  # one a seed, whatever the method
  for one, other in itertools.pairwise(
    json.loads((tmp_path / 'runs' / f'{m}_seed1' / 'summary.json').read_text())
    for m in ('hgpo', 'rloo')
  ):
    assert one['warm_start'] == other['warm_start']
  said = run(*command[:1], '--iterations=3', *command[2:], ok=False)
  assert 'iterations: 2 -> 3' in said
