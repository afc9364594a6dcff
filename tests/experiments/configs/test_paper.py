"""The paper's cells: their settings, what is planned, and one iteration."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from experiments import planning
from experiments.configs import base, paper
from experiments.layout import changes, gather
from hgpo_jax import config as config_lib
from hgpo_jax.train import loop
from tests.runs import changed

ROOT = pathlib.Path(__file__).resolve().parents[3]


def test_every_cell_has_the_reference_settings():
  for name, cell in paper.CELLS.items():
    c = paper.get_config(name)
    assert (c.cell, c.env.world) == (name, cell.world)
    assert (c.algo.estimator, c.env.history) == (cell.method, cell.history)
    assert c.optim.learning_rate == 1e-6
    assert c.iterations == 160
    assert c.loss.clip_low == c.loss.clip_high == 0.2
    assert c.loss.dual_clip == 3
    assert c.loss.aggregation == 'token-mean'
    assert (c.loss.kl, c.loss.kl_coef) == ('k3', 0.01)
    assert c.loss.entropy_coef == 0.001
    assert c.sampling.temperature == 1.0
    assert (max(c.sampling.prompt_buckets), c.sampling.max_reply) == (4096, 512)
    assert (c.rollout.groups, c.rollout.group_size) == (16, 8)
    assert (c.algo.gamma, c.algo.reward_scale) == (0.95, 10)
    assert c.algo.invalid_penalty == 0.1
    assert c.algo.hgpo.alpha == cell.alpha
    assert c.env.template == 'paper'
    assert not c.env.constrained
    assert c.eval.games == 0
    assert c.eval.temperatures == (0.4,)
    assert c.eval.seeds == (123, 456, 789)
    size = {'1.5b': '1.5B', '7b': '7B'}[cell.size]
    assert c.policy.checkpoint == f'Qwen/Qwen2.5-{size}-Instruct'
    alfworld = cell.world == 'alfworld'
    assert c.optim.minibatch_turns == (256 if alfworld else 64)
    assert c.algo.hgpo.normalisation == ('mean_std' if alfworld else 'mean')
    if alfworld:
      assert c.env.alfworld.max_turns == 50
      assert c.env.alfworld.data == 'files'
    else:
      long = cell.method in ('gigpo', 'hgpo')
      assert c.env.webshop.max_turns == (30 if long else 15)
      assert c.env.webshop.data == 'files'
      assert c.env.webshop.num_products == 0


def test_the_tables_are_whole_and_names_are_told_apart():
  assert len(paper.CELLS) == 5 * 2 * 2 * 2 + 2 * 2 * 2 * len(paper.ALPHAS)
  assert all(paper.find(name).name == name for name in paper.CELLS)
  fields = base.get_config().to_dict()
  for name in paper.CELLS:
    config = json.loads(json.dumps(paper.get_config(name).to_dict()))
    assert {k: set(v) for k, v in config.items() if isinstance(v, dict)} == {
      k: set(v) for k, v in fields.items() if isinstance(v, dict)}  # fmt: skip


def differences(a, b):
  a, b = (paper.get_config(name).to_dict() for name in (a, b))
  found = config_lib.differences(a, b, lambda _: True, base.DEFAULT)
  names = [line.partition(':')[0] for line in found]
  return [name for name in names if name != 'cell']


def test_cells_differ_in_what_their_names_say():
  cell = 'hgpo-alfworld-1.5b-k2'
  assert differences(cell, 'hgpo-alfworld-1.5b-k4') == ['env.history']
  assert differences(cell, f'{cell}-alpha0') == ['algo.hgpo.alpha']
  assert differences(cell, 'rloo-alfworld-1.5b-k2') == ['algo.estimator']
  assert differences(cell, 'hgpo-alfworld-7b-k2') == [
    'optim.microbatch_rows', 'policy.checkpoint', 'policy.preset']  # fmt: skip


def test_an_unknown_name_is_refused_with_those_near_it():
  with pytest.raises(ValueError, match="'hgpo-alfworld-1.5b-k3'.*-1.5b-k2"):
    paper.get_config('hgpo-alfworld-1.5b-k3')
  with pytest.raises(ValueError, match='gigpo.*webshop.*7b.*k4'):
    paper.get_config()


# ---- what is planned ----


def cell(name, **changes):
  return changed(paper.get_config(name).unlock(), **changes)


GENERATED = {'env__alfworld__data': 'generated', 'eval__games': 5}


def test_a_plan_holds_the_numbers_of_its_cell(tmp_path):
  c = cell('hgpo-alfworld-1.5b-k2', mesh__fsdp=2, **GENERATED)
  c.mesh.device_gib = 141.0
  plan = planning.plan(base.freeze(c), tmp_path / 'run')
  text = str(plan)
  assert not plan.refused
  assert '160 of 16 tasks x 8 episodes: 2,560 tasks, 20,480 episodes' in text
  tokens = 128 * 50 * (4096 + 512)
  assert f'{tokens / 1e6:.1f} million an iteration' in text
  assert f'{160 * tokens / 1e6:,.0f} million in all' in text
  assert f'at most {128 * 50 // 256} optimiser steps' in text
  assert '1,543,714,304 params trained' in text  # of the released checkpoint
  assert '2 = data 1 x fsdp 2 x tensor 1' in text
  assert '5 valid_seen + 5 valid_unseen games' in text
  assert 'seeds 123, 456, 789: 30 episodes, 2 times' in text
  assert f'{1_543_714_304 * 3 * 4 / 2**30:.1f} GiB each' in text
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ('changes', 'reasons'),
  [
    ({}, ['ALFWORLD_DATA is not set.*alfworld-download']),
    (
      {'mesh__tensor': 8, **GENERATED},
      ['mesh.tensor=8 for a model of 12 query heads.*one of'],
    ),
    (
      {'mesh__fsdp': 8, **GENERATED},
      ['optim.microbatch_rows is 4; expected a multiple of the 8 devices'],
    ),
    (
      {'mesh__device_gib': 24.0, 'env__template': 'terse', **GENERATED},
      ['expected at most the 24.000 GiB.*would make it fit'],
    ),
    (
      {'policy__checkpoint': 'Qwen/Qwen2.5-14B-Instruct', **GENERATED},
      ["Qwen2.5-14B-Instruct'.*none of the sizes"],
    ),
    ({'loss__kl': 'k4', 'eval__games': 5}, ["loss.kl is 'k4'", 'ALFWORLD']),
  ],
)
def test_a_plan_refuses_what_cannot_work(
  changes, reasons, tmp_path, monkeypatch
):
  monkeypatch.delenv('ALFWORLD_DATA', raising=False)
  c = cell('grpo-alfworld-1.5b-k2', **{'mesh__fsdp': 1, **changes})
  found = planning.plan(base.freeze(c), tmp_path).refused
  assert len(found) == len(reasons)
  for text, reason in zip(found, reasons, strict=True):
    assert re.search(reason, text, re.DOTALL)


def test_a_world_without_its_files_is_refused_and_the_rest_is_planned(tmp_path):
  plan = planning.plan(
    base.freeze(cell('hgpo-webshop-1.5b-k4', mesh__fsdp=1)), tmp_path
  )
  (reason,) = plan.refused
  assert 'products' in reason
  assert 'items_ins_v2' in reason
  assert 'at most 30 an episode, 3,840 an iteration' in str(plan)


def test_webshop_is_planned_with_its_goals(tmp_path):
  changes = {'env__webshop__data': 'generated', 'env__webshop__family': 'easy'}
  c = cell('ppo-webshop-1.5b-k2', mesh__fsdp=1, **changes)
  c.env.webshop.num_products = 300
  plan = planning.plan(base.freeze(c), tmp_path)
  assert not plan.refused
  assert 'train games 1,263, each played 2.03 times' in str(plan)
  assert '500 test games, temperatures 0.4, seeds' in str(plan)


def test_a_critic_is_planned_for(tmp_path):
  plans = [
    str(
      planning.plan(
        base.freeze(cell(name, mesh__fsdp=1, **GENERATED)), tmp_path
      )
    )
    for name in ('ppo-alfworld-1.5b-k2', 'rloo-alfworld-1.5b-k2')
  ]
  found = [
    re.search(r'^  critic +(\S+)$', plan, re.MULTILINE) for plan in plans
  ]
  assert float(found[0][1]) == pytest.approx(
    1_543_714_304 * 3 * 4 / 2**30, abs=1
  )
  assert not found[1]


def test_the_plan_flag_starts_nothing(tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', 'experiments.train', '--plan',
     '--config=experiments/configs/toy.py',
     f'--config.run_dir={tmp_path / "run"}'],
    cwd=ROOT, capture_output=True, text=True,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert '80 of 8 tasks x 8 episodes' in done.stdout
  assert not list(tmp_path.iterdir())


# ---- one iteration of each, with the tiny policy ----


def tiny(name):
  """A cell made small: all share shapes, and a warm start for each K."""
  c = cell(name, iterations=1, samples_every=0)
  c.env.update(servers=0)
  c.rollout.update(groups=2, group_size=2, episodes=4, workers=0)
  c.policy.update(checkpoint='', preset='tiny', vocab_size=512, remat='none')
  c.policy.update(layers=1, width=32, ff_width=64)
  c.policy.update(dtype='float32', cache_dtype='float32')
  c.sampling.update(
    max_reply=8, prompt_buckets=(256,), prefill_buckets=(4,), chunk=8
  )
  c.warmstart.tokenizer_games = 2
  c.optim.update(
    minibatch_turns=12, row_tokens=264, row_replies=16, row_turns=2
  )
  c.optim.microbatch_rows = 4
  c.eval.games = 1
  c.mesh.fsdp = 1
  if c.env.world == 'alfworld':
    c.env.alfworld.update(data='generated', family='easy')
  else:
    c.env.webshop.update(data='generated', num_products=300)
  c.env[c.env.world].max_turns = 3
  return c


def played(name, folder):
  """Trains a cell for an iteration and checks what it wrote."""
  summary = loop.train(base.freeze(tiny(name)), folder / name)
  (line,) = (folder / name / 'metrics.jsonl').read_text().splitlines()
  record = json.loads(line)
  assert record['rollout/turns'] <= 3
  assert None not in record.values()  # which is what is not finite
  assert record['update/grad_norm'] > 0
  for split in tiny(name).eval.splits:
    result = summary['final'][split]['0.4']
    assert list(result['by_seed']) == ['123', '456', '789']
    assert result['games'] == 3
  return next(run for run in gather(folder) if run.config.cell == name)


def test_a_cell_runs_and_is_gathered_as_one_that_was_changed(tmp_path):
  run = played('hgpo-alfworld-1.5b-k2', tmp_path)
  assert run.seed == 0
  assert "policy.preset: '1.5b' -> 'tiny'" in changes(run)


# The sizes of the policy are one under the tiny policy.
@pytest.mark.slow
@pytest.mark.parametrize('world', paper.WORLDS)
def test_every_cell_runs(world, tmp_path):
  for name, c in paper.CELLS.items():
    if (c.world, c.size) == (world, '1.5b'):
      played(name, tmp_path)
  assert len(gather(tmp_path)) == 14
