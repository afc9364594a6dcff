"""Models are named in their own files and in the registry, and nowhere else."""

import ast
import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest

from experiments import export
from experiments.configs import base, toy
from hgpo_jax.model import registry, weights
from hgpo_jax.train import loop

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = pathlib.Path('hgpo_jax') / 'model'
OWN = {MODEL / 'registry.py'} | {
  MODEL / f'{name}.py' for name in registry.ARCHITECTURES
}


def names_in(tree):
  """Every identifier, part of an import, and string but for docstrings."""
  docstrings = {
    id(node.value)
    for node in ast.walk(tree)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
  }
  for node in ast.walk(tree):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
      if id(node) not in docstrings:
        yield node.value
    elif isinstance(node, ast.alias):
      yield from node.name.split('.')
    elif isinstance(node, ast.ImportFrom):
      yield from (node.module or '').split('.')
    else:
      for field in ('id', 'attr', 'name', 'arg'):
        value = getattr(node, field, None)
        if isinstance(value, str):
          yield value


def test_no_other_file_names_a_model():
  kinds = registry.ARCHITECTURES.values()
  names = {kind.name for kind in kinds} | {kind.hf_class for kind in kinds}
  breaches = {
    f'{path.relative_to(ROOT)}: {name}'
    for package in ('hgpo_jax', 'experiments', 'launch', 'envs')
    for path in (ROOT / package).rglob('*.py')
    if path.relative_to(ROOT) not in OWN
    for name in names_in(ast.parse(path.read_text(encoding='utf-8')))
    if name in names
  }
  assert not breaches
  own = (ROOT / MODEL / 'registry.py').read_text(encoding='utf-8')
  assert names & set(names_in(ast.parse(own)))  # so the walk sees what there is


def test_presets_have_names_of_their_own():
  kinds = registry.ARCHITECTURES.values()
  assert len(registry.presets()) == sum(len(kind.presets) for kind in kinds)


# A model of one's own: soft-capped logits, as in Gemma 2.
FILE = """
import dataclasses

import jax.numpy as jnp

from hgpo_jax.model import transformer
from hgpo_jax.model.interface import Config, float32

CAP = 2.0


def logits(config, params, hidden):
  return CAP * jnp.tanh(transformer.logits(config, params, hidden) / CAP)


ARCHITECTURE = dataclasses.replace(
  transformer.architecture(
    'capped',
    {'capped-tiny': float32(Config(1024, 32, 64, 2, 4, 2, 8))},
    hub_prefix='',
    hf_class='CappedForCausalLM',
    hf_defaults={},
    hf_expected={'cap': CAP},
    options={},
  ),
  logits=logits,
)
"""


@pytest.fixture
def capped(tmp_path, monkeypatch):
  """The new model's architecture: one file, one entry."""
  path = tmp_path / 'capped.py'
  path.write_text(FILE)
  spec = importlib.util.spec_from_file_location('capped', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  kind = module.ARCHITECTURE
  monkeypatch.setitem(registry.ARCHITECTURES, kind.name, kind)
  return kind


def test_a_new_model_is_one_file_and_one_entry(capped, tmp_path):
  """It trains an iteration, and goes out to a folder and in again."""
  config = toy.get_config().unlock()
  config.update(iterations=1)
  config.eval.games = -1
  config.policy.update(preset='capped-tiny', layers=0, width=0, ff_width=0)
  folder = tmp_path / 'runs' / 'capped'
  loop.train(base.freeze(config), folder)
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  assert len(lines) == 1
  assert np.isfinite(json.loads(lines[0])['update/grad_norm'])
  export.export(folder, tmp_path / 'out', dtype='float32')
  values = json.loads((tmp_path / 'out' / 'config.json').read_text())
  assert (values['model_type'], values['cap']) == ('capped', 2.0)
  model = weights.model_from_hf(tmp_path / 'out', dtype='float32')
  assert model.architecture is capped
  assert model.config.width == 32
  params = weights.load(tmp_path / 'out', model)
  tokens = np.arange(6)[None]
  logits = model.logits(params, model.forward(params, tokens))
  assert np.abs(logits).max() < 2
  assert jax.tree.structure(params) == jax.tree.structure(model.param_shapes())
