"""The import arrows of the layout, read from the source without running it.

The data walks one way, so imports do too: worlds know no JAX and no learner,
pure maths knows no model, flags stop at `experiments/`, nothing is circular.
"""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ('hgpo_jax', 'envs', 'experiments', 'launch')

# module prefix -> prefixes that it may not import
FORBIDDEN = {
  'envs': ['hgpo_jax', 'experiments', 'launch', 'jax', 'flax'],
  'hgpo_jax': ['envs', 'experiments', 'launch', 'absl'],
  'experiments': ['launch'],
  'hgpo_jax.advantages': [
    'hgpo_jax.losses', 'hgpo_jax.model', 'hgpo_jax.sampler',
    'hgpo_jax.rollout', 'hgpo_jax.multihost', 'hgpo_jax.train',
  ],
  'hgpo_jax.losses': [
    'hgpo_jax.advantages', 'hgpo_jax.model', 'hgpo_jax.sampler',
    'hgpo_jax.rollout', 'hgpo_jax.multihost', 'hgpo_jax.train',
  ],
  'hgpo_jax.config': [
    'hgpo_jax.model', 'hgpo_jax.sampler', 'hgpo_jax.rollout',
    'hgpo_jax.multihost', 'hgpo_jax.train',
  ],
  'hgpo_jax.model': [
    'hgpo_jax.sampler', 'hgpo_jax.rollout', 'hgpo_jax.multihost',
    'hgpo_jax.train',
  ],
  'hgpo_jax.sampler': [
    'hgpo_jax.rollout', 'hgpo_jax.multihost', 'hgpo_jax.train',
  ],
  'hgpo_jax.rollout': ['hgpo_jax.multihost', 'hgpo_jax.train'],
}  # fmt: skip
# The only places where an arrow may go against the table.
EXCEPTIONS = {('hgpo_jax.train.worlds', 'envs')}

# Worlds use the standard library; these wrap a package, and only inside
# functions, so that importing them needs nothing.
LAZY = {
  'envs.alfworld.textworld': {'textworld', 'alfworld'},
  'envs.webshop.nouns': {'spacy'},
}
# A folder that may use more; what all worlds load must not import it at once.
ALLOWED = {
  'envs.webshop': {'numpy', 'regex'},
  'envs.serving.protocol': {'msgpack', 'msgspec'},
  'envs.serving.fleet': {'grpc', 'msgspec'},
  'envs.serving.server': {'grpc', 'msgspec'},
  'envs.serving.client': {'grpc'},
}


def module_name(path):
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def source_files():
  return {
    module_name(path): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob('*.py'))
  }


FILES = source_files()
MODULES = set(FILES)


def imported(node, module, is_package):
  """Full names that an import statement binds: of modules or their members."""
  if isinstance(node, ast.Import):
    return [alias.name for alias in node.names]
  base = node.module or ''
  if node.level:
    parents = module.split('.')
    parents = parents[: len(parents) - node.level + is_package]
    base = '.'.join([*parents, *([base] if base else [])])
  return [f'{base}.{alias.name}' for alias in node.names]


def imports(name):
  """Yields (imported name, whether at module level) of a module."""
  path = FILES[name]
  tree = ast.parse(path.read_text(encoding='utf-8'))
  inner = {
    id(node)
    for scope in ast.walk(tree)
    if isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef))
    for node in ast.walk(scope)
  }
  for node in ast.walk(tree):
    if isinstance(node, (ast.Import, ast.ImportFrom)):
      for target in imported(node, name, path.stem == '__init__'):
        yield target, id(node) not in inner


def within(name, prefix):
  return name == prefix or name.startswith(prefix + '.')


def module_of(target):
  """The module of this project that a name lies in, None where in none."""
  parts = target.split('.')
  for end in range(len(parts), 0, -1):
    if '.'.join(parts[:end]) in MODULES:
      return '.'.join(parts[:end])
  return None


def test_there_is_something_to_check():
  assert len(MODULES) > 10
  assert 'envs.base' in MODULES


@pytest.mark.parametrize('source', FORBIDDEN)
def test_forbidden_arrows(source):
  breaches = {
    f'{name} imports {target}'
    for name in MODULES
    if within(name, source)
    for target, _ in imports(name)
    for prefix in FORBIDDEN[source]
    if within(target, prefix) and (name, prefix) not in EXCEPTIONS
  }
  assert not breaches


def test_worlds_use_the_standard_library_only():
  breaches = set()
  for name in MODULES:
    if not within(name, 'envs'):
      continue
    for target, top_level in imports(name):
      root = target.split('.')[0]
      lazy = not top_level and root in LAZY.get(name, ())
      allowed = any(
        within(name, folder) and root in roots
        for folder, roots in ALLOWED.items()
      )
      known = root == 'envs' or root in sys.stdlib_module_names
      if not (known or lazy or allowed):
        breaches.add(f'{name} imports {target}')
  assert not breaches


def test_a_run_without_servers_loads_no_grpc():
  code = (
    'import sys\n'
    'from experiments.configs import base, toy\n'
    'from hgpo_jax.train import worlds\n'
    'with worlds.open_environments(base.freeze(toy.get_config())):\n'
    "  loaded = {'grpc', 'envs.serving.protocol'} & sys.modules.keys()\n"
    '  sys.exit(bool(loaded))\n'
  )
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


def test_flags_stop_at_what_people_start():
  breaches = {
    f'{name} imports {target}'
    for name in MODULES
    if not within(name, 'experiments') and not within(name, 'launch')
    for target, _ in imports(name)
    if within(target, 'absl')
    or target.startswith('ml_collections.config_flags')
  }
  assert not breaches


def test_no_test_imports_another_test_module():
  for path in sorted((ROOT / 'tests').rglob('*.py')):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, (ast.Import, ast.ImportFrom)):
        parts = '.'.join(imported(node, module_name(path), False)).split('.')
        tests = {p for p in parts if p.startswith('test_')}
        assert parts[0] != 'tests' or not tests, f'{path} imports {tests}'


def test_no_module_imports_itself_through_others():
  graph = {
    name: {module_of(target) for target, _ in imports(name)} - {None, name}
    for name in MODULES
  }
  try:
    graphlib.TopologicalSorter(graph).prepare()
  except graphlib.CycleError as error:
    pytest.fail('circular imports: ' + ' -> '.join(error.args[1]))


def test_relative_and_member_imports_are_resolved():
  def names(text, module, is_package=False):
    return imported(ast.parse(text).body[0], module, is_package)

  assert names('import a.b', 'x') == ['a.b']
  assert names('from . import c', 'a.b') == ['a.c']
  assert names('from . import c', 'a.b', True) == ['a.b.c']
  assert names('from ..d import e', 'a.b.c') == ['a.d.e']
  assert module_of('envs.base.Step') == 'envs.base'
