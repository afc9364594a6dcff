"""The policy of a run: from a checkpoint and back, on one device and eight."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import export
from hgpo_jax import types
from hgpo_jax.model import tokenizer as tokenizer_lib
from hgpo_jax.model import weights
from hgpo_jax.train import checkpoint, config_checks, loop, worlds
from hgpo_jax.train import policy as policy_lib
from tests import runs

ROOT = pathlib.Path(__file__).resolve().parents[2]


def config(**changes):
  return runs.config(**{'iterations': 2, 'eval__games': -1, **changes})


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
  """A short run on one device."""
  folder = tmp_path_factory.mktemp('runs') / 'plain'
  loop.train(config(), folder)
  return folder


def saved_params(folder):
  with checkpoint.opened(folder / 'checkpoints') as store:
    tokenizer = tokenizer_lib.load(folder / 'warm_start' / 'tokenizer')
    policy = policy_lib.Policy(config(), tokenizer)
    return policy, policy.saved_params(folder, store, None)


def test_a_run_goes_out_to_a_folder_and_on_from_there(plain, tmp_path):
  export.export(plain, tmp_path / 'policy', dtype='float32')
  policy, params = saved_params(plain)
  like = weights.model_from_hf(tmp_path / 'policy', dtype='float32')
  assert like.config.vocab_size == policy.base.config.vocab_size
  read = weights.load(tmp_path / 'policy', like)
  jax.tree.map(np.testing.assert_array_equal, read, params)
  further = config(
    policy__layers=0,
    policy__width=0,
    policy__ff_width=0,
    policy__checkpoint=str(tmp_path / 'policy'),
  )
  loop.train(further, tmp_path / 'runs' / 'further')
  own = tmp_path / 'runs' / 'further' / 'warm_start'
  assert not (own / 'params').exists()  # nothing was copied
  with worlds.open_environments(further):
    start = policy_lib.Policy(further, tokenizer_lib.load(own / 'tokenizer'))
    again = start.warm_params(own)
  jax.tree.map(np.testing.assert_array_equal, again, params)


def test_a_checkpoint_has_its_own_size(plain, tmp_path):
  export.export(plain, tmp_path / 'policy', dtype='float32')
  c = config(policy__checkpoint=str(tmp_path / 'policy'))
  with pytest.raises(types.ConfigError, match='policy.layers'):
    config_checks.check(c)


def records(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_a_mesh_changes_no_number(plain, tmp_path):
  shape = {'mesh__data': 2, 'mesh__fsdp': 2, 'mesh__tensor': 2}
  loop.train(config(**shape), tmp_path / 'runs' / 'mesh')
  found = records(tmp_path / 'runs' / 'mesh')
  for one, eight in zip(records(plain), found, strict=True):
    assert one.keys() == eight.keys()
    for name, value in one.items():
      if not name.startswith('time/'):
        np.testing.assert_allclose(eight[name], value, rtol=2e-3, atol=2e-4)
  # The first step leaves everything where it found it.
  compiled = [record['time/compilations'] for record in found]
  assert compiled[0] == compiled[1]
  exported_on_one_device(tmp_path / 'runs' / 'mesh', tmp_path / 'policy')


def exported_on_one_device(folder, output):
  """In a process that has none of the devices that the run was saved from."""
  done = subprocess.run(
    [sys.executable, '-m', 'experiments.export',
     f'--checkpoint={folder}', f'--output={output}', '--dtype=float32'],
    cwd=ROOT, env={**os.environ, 'XLA_FLAGS': ''}, capture_output=True,
    text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  policy, params = saved_params(folder)
  read = weights.load(output, policy.base)
  jax.tree.map(np.testing.assert_array_equal, read, params)


def test_what_does_not_fit_is_said_before_anything_is_made(tmp_path):
  with pytest.raises(types.ConfigError, match='GiB') as error:
    loop.train(config(mesh__device_gib=1e-4), tmp_path / 'runs' / 'a')
  assert 'expected at most' in str(error.value)
  assert not list((tmp_path / 'runs' / 'cache').glob('*'))
  assert not (tmp_path / 'runs' / 'a' / 'warm_start').exists()


def test_sizes_of_generation_that_cannot_work_are_named(plain):
  tokenizer = saved_params(plain)[0].tokenizer
  for field in ('sampling__chunk', 'sampling__prefill_rows'):
    policy = policy_lib.Policy(config(**{field: 0}), tokenizer)
    with pytest.raises(types.ConfigError, match='sampling.*at least 1'):
      policy.memory()


def test_params_are_cast_once_for_sampling(plain):
  policy, params = saved_params(plain)
  assert policy.for_sampling(params) is params
  half = policy_lib.Policy(config(policy__dtype='bfloat16'), policy.tokenizer)
  cast = half.for_sampling(params)
  assert {x.dtype for x in jax.tree.leaves(cast)} == {np.dtype('bfloat16')}
  tokens = np.arange(6)[None]
  same = [
    half.base.forward(p, tokens).astype(np.float32) for p in (params, cast)
  ]
  np.testing.assert_array_equal(*same)


@pytest.mark.parametrize(
  ('field', 'value', 'match'),
  [
    ('mesh__tensor', 3, 'mesh'),
    ('policy__remat', 'some', 'policy.remat'),
    ('policy__attention', 'none', 'policy.attention'),
    ('policy__dtype', 'int8', 'policy.dtype'),
    ('policy__param_dtype', 'bfloat16', 'or adapters'),
    ('optim__logits_chunk', 5, 'optim.logits_chunk'),
  ],
)
def test_wrong_fields_are_named(field, value, match):
  with pytest.raises(types.ConfigError, match=match):
    config_checks.check(config(**{field: value}))


def test_rows_must_be_split_over_the_devices():
  c = config(mesh__fsdp=8, optim__microbatch_rows=12)
  with pytest.raises(types.ConfigError, match='multiple of the 8 .* as 16'):
    config_checks.check(c)
