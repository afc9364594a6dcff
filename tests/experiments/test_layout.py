"""Finished runs as the paper's tables: numbers by hand, nothing made up."""

import csv
import io
import json
import statistics

import pytest

from experiments import layout, reported
from experiments.configs import paper
from hgpo_jax.types import ConfigError
from tests.runs import changed

SEEN, UNSEEN = 'valid_seen', 'valid_unseen'
PICK = 'pick_and_place_simple'


def result(success, **by_type):
  """One evaluation as `evaluate.by_seed` writes it, a share won per seed."""
  return {
    'by_seed': {
      str(seed): {
        'success': share,
        'by_type': {k: {'success': v, 'games': 4} for k, v in by_type.items()},
      }
      for seed, share in zip((123, 456, 789), success, strict=False)
    }
  }


def write(folder, name, final, **changes):
  c = changed(paper.get_config(name).unlock(), **changes)
  folder.mkdir(parents=True)
  (folder / 'config.json').write_text(json.dumps(c.to_dict()))
  (folder / 'summary.json').write_text(json.dumps({'final': final}))


def row(text, title, label):
  """A table's row as head -> cell; of two equal heads the first stays."""
  lines = text.split(f'### {title}\n')[1].splitlines()
  head = [cell.strip() for cell in lines[1].split('|')[1:-1]]
  for line in lines[3:]:
    cells = [cell.strip() for cell in line.split('|')[1:-1]]
    if cells and cells[0] == label:
      return dict(reversed(list(zip(head, cells, strict=True))))
  raise AssertionError(f'no row {label!r}')


def test_mean_and_spread_over_seeds_stand_beside_what_is_reported(tmp_path):
  shares = (0.90, 0.95, 0.91)
  write(
    tmp_path / 'a',
    'hgpo-alfworld-1.5b-k2',
    {SEEN: {'0.4': result(shares, **{PICK: 1.0})}, UNSEEN: {'0.4': {}}},
  )
  text = layout.report(layout.gather(tmp_path))
  found = row(text, 'Qwen2.5-1.5B: ALFWorld, in distribution', 'HGPO, K = 2')
  mean, std = 92.0, 100 * statistics.stdev(shares)
  assert found['All'] == f'{mean:.2f} ± {std:.2f}'
  assert found['Pick'] == '100.00 ± 0.00'
  assert found['Look'] == 'missing'
  assert found['n'] == '3'
  assert found['reported'] == '92.77 [1]'
  found = row(
    text, 'Qwen2.5-1.5B: ALFWorld, out of distribution', 'HGPO, K = 2'
  )
  assert found['All'] == 'missing'
  assert found['reported'] == '90.16 [1]'
  found = row(text, 'Qwen2.5-7B: WebShop', 'PPO, K = 4')
  assert found == {
    'Method': 'PPO, K = 4', 'n': '0', 'Score': 'missing', 'reported': '-',
    'Success': 'missing'}  # fmt: skip
  assert '\\*' not in text  # nothing was changed
  assert '[1] a summary of HGPO' in text


def test_seeds_of_training_count_like_those_of_evaluation(tmp_path):
  name = 'grpo-alfworld-7b-k4'
  for seed, share in ((0, 0.5), (1, 0.7)):
    final = {SEEN: {'0.4': result([share])}}
    write(tmp_path / str(seed), name, final, seed=seed)
  text = layout.report(layout.gather(tmp_path))
  found = row(text, 'Qwen2.5-7B: ALFWorld, in distribution', 'GRPO, K = 4')
  assert found['All'] == '60.00 ± 14.14'
  assert found['n'] == '2'
  assert found['reported'] == '-'


def test_webshop_has_a_score_and_a_success(tmp_path):
  final = {'test': {'0.4': result([0.75, 0.80])}}
  for seed, score in (('123', 0.9), ('456', 0.88)):
    final['test']['0.4']['by_seed'][seed]['task_score'] = score
  write(tmp_path / 'a', 'gigpo-webshop-7b-k2', final)
  text = layout.report(layout.gather(tmp_path))
  found = row(text, 'Qwen2.5-7B: WebShop', 'GiGPO, K = 2')
  assert found['Score'] == '89.00 ± 1.41'
  assert found['Success'] == '77.50 ± 3.54'
  assert found['reported'] == '88.93 [1]'


def test_a_changed_run_is_marked_and_a_copy_refused(tmp_path):
  final = {SEEN: {'0.4': result([0.5])}}
  name = 'hgpo-alfworld-1.5b-k4-alpha2'
  changes = {'policy__checkpoint': 'own', 'iterations': 3}
  free = {'mesh__fsdp': 2, 'rollout__decode_rows': 4, 'env__servers': 1}
  write(tmp_path / 'a', name, final, **changes, **free)
  runs = layout.gather(tmp_path)
  assert layout.changes(runs[0]) == [
    'iterations: 160 -> 3',
    "policy.checkpoint: 'Qwen/Qwen2.5-1.5B-Instruct' -> 'own'",
  ]
  text = layout.report(runs)
  title = 'Qwen2.5-1.5B: ALFWorld, in distribution'
  label = 'HGPO, K = 4, alpha = 2 \\*'
  assert row(text, title, label)['All'] == '50.00'
  assert row(text, title, label)['reported'] == '-'  # not that of alpha 1
  assert f'{tmp_path / "a"}: iterations: 160 -> 3; policy' in text
  write(tmp_path / 'b', name, final)
  with pytest.raises(ConfigError, match='both ran .*alpha2 with seed 0'):
    layout.gather(tmp_path)
  with pytest.raises(ConfigError, match='does not exist'):
    layout.gather(tmp_path / 'nothing')


def test_a_run_of_a_cell_that_does_not_exist_is_refused(tmp_path):
  write(tmp_path / 'a', 'hgpo-alfworld-7b-k2', {}, cell='hgpo-alfworld-7b-k3')
  with pytest.raises(ConfigError, match="'hgpo-alfworld-7b-k3'.*Move it away"):
    layout.gather(tmp_path)


def test_what_is_no_finished_run_of_a_cell_is_left_out(tmp_path):
  write(tmp_path / 'other', 'hgpo-alfworld-7b-k2', {}, cell='')
  write(tmp_path / 'running', 'hgpo-alfworld-7b-k2', {})
  (tmp_path / 'running' / 'summary.json').unlink()
  assert layout.gather(tmp_path) == []


def test_csv_has_a_line_for_each_cell_and_column(tmp_path):
  final = {SEEN: {'0.4': result([0.5, 0.6, 0.7])}}
  write(tmp_path / 'a', 'hgpo-alfworld-7b-k4', final)
  text = layout.csv_lines(layout.gather(tmp_path))
  lines = list(csv.DictReader(io.StringIO(text)))
  assert len(lines) == len(paper.CELLS) // 2 * (14 + 2)
  known = [line for line in lines if line['mean'] != 'missing']
  (found,) = known
  assert found['cell'] == 'hgpo-alfworld-7b-k4'
  assert (found['split'], found['column']) == (SEEN, 'All')
  assert (found['n'], found['mean'], found['std']) == ('3', '60.0', '10.0')
  assert found['reported'] == '95.96'
  both = [line['reported'] for line in lines if ' or ' in line['reported']]
  assert len(both) == 3  # of which two summaries say different things


def test_reported_numbers_are_of_cells_and_none_where_none_is_listed():
  find = reported.find
  names = {(c.method, c.size, c.history) for c in paper.CELLS.values()}
  assert all(r[1:4] in names for r in reported.ROWS if r.history)
  assert [r.seen for r in find(('gigpo', '7b', 4), 'seen')] == [
    (95.63, None), (95.43, None)]  # fmt: skip
  assert find(('hgpo', '7b', 4), 'success')[0].success.mean == 79.29
  assert find(('hgpo', '7b', 2), 'seen') == []
  assert find(('ppo', '1.5b', 2), 'seen') == []
  (ppo,) = (r for r in reported.ROWS if r[1:3] == ('ppo', '1.5b'))
  assert ppo.alfworld == (54.4, 3.1)
  assert ppo.success == (51.5, 2.9)
