"""Checkpoints: equal to transformers', in and out, bounded, sharded, refused.

`golden/hf/` holds tiny checkpoints and logits that transformers wrote (see
`golden/make_golden.py`).
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import weakref

import huggingface_hub
import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401 (numpy learns the name bfloat16)
import numpy as np
import pytest
import safetensors.numpy

from hgpo_jax.model import export, hf, registry, weights
from tests.small_decoder import small_model

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'hf'
CASES = sorted(folder.name for folder in GOLDEN.iterdir())
FLOATS = {'dtype': 'float32', 'cache_dtype': 'float32'}
MODEL = small_model(
  40, 16, 24, 3, 4, 2, 8, rope_base=5e4, norm_eps=1e-5, tied_head=False,
  cache_dtype='bfloat16',
)  # fmt: skip
QWEN3 = small_model(
  40, 16, 24, 3, 4, 2, 8, tied_head=False, architecture='qwen3'
)


def drawn(model):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda a: jnp.asarray(rng.normal(0, 0.5, a.shape), a.dtype),
    model.param_shapes(),
  )


@pytest.fixture(scope='module')
def params():
  """No two leaves are equal, so that no mix-up of norms goes unseen."""
  return drawn(MODEL)


@pytest.fixture(scope='module')
def stored(params, tmp_path_factory):
  """A good checkpoint of `params`: one float32 file, never changed."""
  folder = tmp_path_factory.mktemp('weights') / 'stored'
  weights.save(folder, MODEL, params, dtype='float32')
  return folder


@pytest.fixture
def folder(stored, tmp_path):
  """A copy of `stored` to be spoiled."""
  return pathlib.Path(shutil.copytree(stored, tmp_path / 'copy'))


def tensors_of(folder):
  return {
    name: array
    for file in sorted(folder.glob('*.safetensors'))
    for name, array in safetensors.numpy.load_file(file).items()
  }


def rewrite(folder, change):
  """Applies `change` to the dict of stored tensors."""
  tensors = tensors_of(folder)
  change(tensors)
  tensors = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
  safetensors.numpy.save_file(tensors, folder / hf.SINGLE)


def assert_same(actual, expected):
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


# ---- equal to transformers --------------------------------------------------


@pytest.mark.parametrize('case', CASES)
def test_logits_match_transformers(case):
  model = weights.model_from_hf(GOLDEN / case, **FLOATS)
  params = weights.load(GOLDEN / case, model)
  golden = np.load(GOLDEN / case / 'golden.npz')

  @jax.jit
  def compute(tokens, segments):
    hidden = model.forward(params, tokens, segments)
    return model.logits(params, hidden)

  for valid, expected in zip(golden['valid'], golden['logits'], strict=True):
    last, columns = expected.shape[1:]
    actual = compute(golden['tokens'], valid.astype(np.int32))
    np.testing.assert_allclose(
      np.asarray(actual)[:, -last:, :columns][valid[:, -last:]],
      expected[valid[:, -last:]],
      atol=1e-4,
    )


def test_golden_cases_cover_ratios_heads_and_types():
  models = {c: weights.model_from_hf(GOLDEN / c) for c in CASES}
  kinds = {m.architecture.name for m in models.values()}
  assert kinds == set(registry.ARCHITECTURES)
  configs = {c: m.config for c, m in models.items()}
  ratios = {c.num_heads // c.num_kv_heads for c in configs.values()}
  assert ratios >= {1, 5, 6, 7, 8}
  assert {c.head_dim for c in configs.values()} == {16, 64, 128}
  assert {c.tied_head for c in configs.values()} == {True, False}
  assert len({c.rope_base for c in configs.values()}) >= 3
  types = {a.dtype.name for c in CASES for a in tensors_of(GOLDEN / c).values()}
  assert types == {'float32', 'bfloat16', 'float16'}
  assert np.load(GOLDEN / 'long' / 'golden.npz')['tokens'].shape[1] > 4_096


@pytest.mark.parametrize('model', [MODEL, QWEN3], ids=['qwen2', 'qwen3'])
@pytest.mark.parametrize('tied', [True, False])
@pytest.mark.parametrize('max_shard_bytes', [10**9, 5_000])
def test_transformers_loads_what_was_saved(
  model, tied, max_shard_bytes, tmp_path
):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  model = model.replace(tied_head=tied)
  params = drawn(model)
  folder = tmp_path / 'saved'
  weights.save(
    folder,
    model,
    params,
    dtype='float32',
    max_shard_bytes=max_shard_bytes,
    extra={'eos_token_id': 7},
  )
  theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
    folder, output_loading_info=True
  )
  assert not any(report.values()), report
  assert theirs.dtype == torch.float32
  assert theirs.config.eos_token_id == 7
  tokens = np.arange(20).reshape(2, 10) % model.config.vocab_size
  with torch.no_grad():
    expected = theirs(torch.tensor(tokens)).logits.numpy()
  hidden = model.forward(params, tokens, np.ones((2, 10), np.int32))
  actual = model.logits(params, hidden)
  np.testing.assert_allclose(actual, expected, atol=1e-4)


# ---- there and back ---------------------------------------------------------


def test_float32_comes_back_bit_for_bit(params, stored):
  loaded = weights.load(stored, MODEL)
  assert jax.tree.structure(loaded) == jax.tree.structure(params)
  assert_same(loaded, params)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_narrow_types_round_once(params, dtype, tmp_path):
  folder = tmp_path / 'narrow'
  weights.save(folder, MODEL, params, dtype=dtype)
  assert {a.dtype.name for a in tensors_of(folder).values()} == {dtype}
  narrow = jax.tree.map(lambda a: np.asarray(a).astype(dtype), params)
  as_stored = weights.load(folder, MODEL, dtype=dtype)
  assert {a.dtype.name for a in jax.tree.leaves(as_stored)} == {dtype}
  assert_same(as_stored, narrow)
  widened = weights.load(folder, MODEL)  # param_dtype
  assert {a.dtype.name for a in jax.tree.leaves(widened)} == {'float32'}
  assert_same(widened, narrow)


def test_config_comes_back(stored):
  assert weights.model_from_hf(stored, dtype='float32') == MODEL


def test_qwen3_comes_back_bit_for_bit(tmp_path):
  params, folder = drawn(QWEN3), tmp_path / 'qwen3'
  weights.save(folder, QWEN3, params, dtype='float32')
  assert weights.model_from_hf(folder, **FLOATS) == QWEN3
  assert_same(weights.load(folder, QWEN3), params)
  tensors = tensors_of(folder)
  assert not [name for name in tensors if 'bias' in name]
  np.testing.assert_array_equal(
    tensors['model.layers.1.self_attn.q_norm.weight'],
    params['layers']['attention']['q_norm']['scale'][1],
  )
  with pytest.raises(weights.WeightsError, match='qwen3 .expected qwen2'):
    weights.load(folder, MODEL)


def test_names_and_orientation_are_hugging_faces(params, stored):
  tensors = tensors_of(stored)
  assert len(tensors) == 3 + 12 * MODEL.config.num_layers
  layers = params['layers']
  np.testing.assert_array_equal(
    tensors['model.layers.2.mlp.down_proj.weight'],
    layers['mlp']['down_proj']['kernel'][2].T,
  )
  np.testing.assert_array_equal(
    tensors['model.layers.1.self_attn.k_proj.bias'],
    layers['attention']['k_proj']['bias'][1],
  )
  np.testing.assert_array_equal(tensors['lm_head.weight'], params['head'])


def test_many_files_hold_what_one_file_holds(params, stored, tmp_path):
  folder, limit = tmp_path / 'many', 6_000
  weights.save(folder, MODEL, params, dtype='float32', max_shard_bytes=limit)
  files = sorted(folder.glob('model-*-of-*.safetensors'))
  assert len(files) > 3
  assert not (folder / hf.SINGLE).exists()
  index = json.loads((folder / hf.INDEX).read_text())
  sizes = dict.fromkeys(index['weight_map'].values(), 0)
  for name, array in tensors_of(folder).items():
    sizes[index['weight_map'][name]] += array.nbytes
  assert set(sizes) == {file.name for file in files}
  assert max(sizes.values()) <= limit
  assert sum(sizes.values()) == index['metadata']['total_size']
  assert_same(tensors_of(folder), tensors_of(stored))
  assert_same(weights.load(folder, MODEL), params)


def test_params_of_numpy_and_of_other_types_are_saved(params, tmp_path):
  given = jax.tree.map(lambda a: np.asarray(a).astype('bfloat16'), params)
  weights.save(tmp_path / 'a', MODEL, given, dtype='float32')
  assert_same(weights.load(tmp_path / 'a', MODEL), given)


def test_head_and_buffers_of_old_tied_checkpoints_are_skipped(params, folder):
  model = MODEL.replace(tied_head=True)
  values = json.loads((folder / 'config.json').read_text())
  values['tie_word_embeddings'] = True
  (folder / 'config.json').write_text(json.dumps(values))
  buffer = 'model.layers.0.self_attn.rotary_emb.inv_freq'
  rewrite(folder, lambda t: t.update({buffer: np.ones(4, np.float32)}))
  loaded = weights.load(folder, model)
  assert_same(loaded, {k: v for k, v in params.items() if k != 'head'})


# ---- memory and devices -----------------------------------------------------


def track_reads(monkeypatch):
  """Counts bytes: of the reader's arrays alive now, at most, and in all."""
  count = {'alive': 0, 'most': 0, 'total': 0}

  def forget(size):
    count['alive'] -= size

  def read(stored, name, index, original=weights._read):
    array = original(stored, name, index)
    count['alive'] += array.nbytes
    count['total'] += array.nbytes
    count['most'] = max(count['most'], count['alive'])
    weakref.finalize(array, forget, array.nbytes)
    return array

  monkeypatch.setattr(weights, '_read', read)
  return count


def test_the_host_holds_few_tensors_at_a_time(monkeypatch, stored, params):
  count = track_reads(monkeypatch)
  weights.load(stored, MODEL)
  tensors = [a.nbytes for a in tensors_of(stored).values()]
  assert count['total'] == sum(tensors)
  # The one being read, and the one that the device was just given.
  assert count['most'] <= 2 * max(tensors) < sum(tensors) / 5


SHARDED_SCRIPT = """
import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from hgpo_jax.model import weights

folder, out = sys.argv[1:]
model = weights.model_from_hf(folder, dtype='float32')
mesh = Mesh(np.array(jax.devices()).reshape(2, 2, 2), ('a', 'b', 'c'))
whole = weights.load(folder, model)
by_rank = {1: P('b'), 2: P(None, 'c'), 3: P(None, 'b', ('c', 'a'))}
specs = jax.tree.map(lambda a: by_rank[a.ndim], whole)
specs['embed'] = P(('b', 'a'), 'c')
specs['head'] = P()
specs['layers']['mlp']['up_proj']['kernel'] = P(None, None, 'c')
shardings = jax.tree.map(lambda s: NamedSharding(mesh, s), specs)
arrays, read = [], weights._read
weights._read = lambda *args: arrays.append(read(*args)) or arrays[-1]
split = weights.load(folder, model, shardings=shardings)
def check(a, b, sharding):
  assert b.sharding == sharding, (b.sharding, sharding)
  np.testing.assert_array_equal(a, b)
jax.tree.map(check, whole, split, shardings)
total = sum(a.nbytes for a in jax.tree.leaves(whole))
assert sum(a.nbytes for a in arrays) == total  # equal parts are read once
weights.save(out, model, split, dtype='float32')
print('devices', len(jax.devices()))
"""


def test_sharded_over_eight_devices_equals_one(stored, tmp_path):
  out = tmp_path / 'out'
  flags = '--xla_force_host_platform_device_count=8'
  done = subprocess.run(
    [sys.executable, '-c', SHARDED_SCRIPT, str(stored), str(out)],
    env={**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'},
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert 'devices 8' in done.stdout
  assert (out / hf.SINGLE).read_bytes() == (stored / hf.SINGLE).read_bytes()


# ---- refused ----------------------------------------------------------------


def test_one_error_lists_everything(folder):
  def spoil(tensors):
    del tensors['model.norm.weight']
    for layer in range(3):
      for half in ('self_attn', 'mlp'):
        for name in [n for n in tensors if f'{layer}.{half}' in n]:
          del tensors[name]
    tensors['visual.weight'] = np.zeros(3, np.float32)
    tensors['model.embed_tokens.weight'] = np.zeros((41, 16), np.float32)
    tensors['lm_head.weight'] = np.zeros((40, 16), np.int8)

  rewrite(folder, spoil)
  other = MODEL.replace(rope_base=1e6)
  with pytest.raises(weights.WeightsError) as error:
    weights.load(folder, other)
  for words in (
    f'{folder} does not fit',
    'rope_theta 50000.0 (expected 1000000.0)',
    '31 missing tensors: ',
    ' and 21 more',
    '1 extra tensors: visual.weight',
    'model.embed_tokens.weight [41, 16] (expected [40, 16])',
    'lm_head.weight I8 (expected one of F32, BF16, F16)',
    'Take the model from',
  ):
    assert words in str(error.value)


def test_files_that_the_index_names_must_be_there(params, tmp_path):
  folder = tmp_path / 'many'
  weights.save(folder, MODEL, params, max_shard_bytes=3_000)
  gone = sorted(folder.glob('model-*.safetensors'))[0]
  gone.unlink()
  with pytest.raises(weights.WeightsError, match=gone.name):
    weights.load(folder, MODEL)


def spoil_config(folder):
  (folder / 'config.json').write_text('{')


def cut_short(folder):
  file = folder / hf.SINGLE
  file.write_bytes(file.read_bytes()[:-10])


def pickled(folder):
  (folder / hf.SINGLE).rename(folder / 'pytorch_model.bin')


@pytest.mark.parametrize(
  ('spoil', 'words'),
  [
    (spoil_config, 'config.json cannot be read as JSON'),
    (lambda f: (f / 'config.json').unlink(), 'config.json cannot be read'),
    (cut_short, 'model.safetensors is damaged'),
    (lambda f: (f / hf.SINGLE).unlink(), 'a complete checkpoint'),
    (pickled, 'save_pretrained'),
  ],
)
def test_incomplete_folders_are_refused(folder, spoil, words):
  spoil(folder)
  with pytest.raises(weights.WeightsError) as error:
    weights.load(folder, MODEL)
  assert words in str(error.value)


def test_shardings_must_cover_the_params(stored):
  with pytest.raises(weights.WeightsError, match='layers/mlp_norm/scale'):
    weights.load(stored, MODEL, shardings={'embed': None})


def test_params_of_another_config_are_not_saved(params, tmp_path):
  other = MODEL.replace(ff_width=25, tied_head=True)
  with pytest.raises(weights.WeightsError) as error:
    weights.save(tmp_path / 'a', other, params)
  assert '1 extra arrays: head' in str(error.value)
  assert '[3, 16, 24] (expected [3, 16, 25])' in str(error.value)
  assert not (tmp_path / 'a').exists()


def test_save_refuses_other_types_and_taken_folders(params, stored, tmp_path):
  with pytest.raises(weights.WeightsError, match="got dtype 'int8'"):
    weights.save(tmp_path / 'a', MODEL, params, dtype='int8')
  before = (stored / hf.SINGLE).read_bytes()
  with pytest.raises(weights.WeightsError, match='is there already'):
    weights.save(stored, MODEL, params)
  assert (stored / hf.SINGLE).read_bytes() == before


def test_a_save_that_fails_leaves_nothing(monkeypatch, params, tmp_path):
  def fail(*args):
    raise OSError('disk full')

  with monkeypatch.context() as patch:
    patch.setattr(export, '_write_file', fail)
    with pytest.raises(OSError, match='disk full'):
      weights.save(tmp_path / 'a', MODEL, params)
  assert not list(tmp_path.iterdir())
  (tmp_path / '.a.partial').mkdir()  # what a killed run leaves
  (tmp_path / '.a.partial' / 'rest').touch()
  weights.save(tmp_path / 'a', MODEL, params)
  assert [path.name for path in tmp_path.iterdir()] == ['a']
  assert sorted(path.name for path in (tmp_path / 'a').iterdir()) == [
    'config.json',
    hf.SINGLE,
  ]


# ---- where ------------------------------------------------------------------


def refuse_network(*args, **kwargs):
  raise ConnectionError('no network')


def test_find_takes_a_local_folder_without_network(monkeypatch, stored):
  monkeypatch.setattr(huggingface_hub, 'snapshot_download', refuse_network)
  assert weights.find(stored) == stored
  assert weights.find(str(stored)) == stored


def test_find_downloads_what_is_needed(monkeypatch, tmp_path):
  asked = []

  def download(name, *, allow_patterns):
    asked.append((name, allow_patterns))
    return str(tmp_path)

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  assert weights.find('Qwen/Qwen2.5-0.5B') == tmp_path
  ((name, patterns),) = asked
  assert name == 'Qwen/Qwen2.5-0.5B'
  assert '*.safetensors' in patterns
  assert '*.bin' not in patterns


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    ('Qwen/Qwen2.5-0.5B', 'no network'),
    ('/no/such/folder', 'a hub id reads owner/name'),
    ('./Qwen/Qwen2.5-0.5B', 'a hub id reads owner/name'),
  ],
)
def test_find_names_both_possibilities(monkeypatch, name, words):
  monkeypatch.setattr(huggingface_hub, 'snapshot_download', refuse_network)
  with pytest.raises(weights.WeightsError) as error:
    weights.find(name)
  assert words in str(error.value)
  assert 'is no local folder' in str(error.value)
