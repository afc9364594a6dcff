"""What is predicted is what is then allocated."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hgpo_jax import types
from hgpo_jax.model import fitting, lora, memory, registry, sharding, values
from hgpo_jax.model.interface import Model
from hgpo_jax.model.remat import POLICIES
from hgpo_jax.sampler import decode
from hgpo_jax.sampler.sampling import Sampling
from tests.small_decoder import small_model

MODEL = small_model(64, 16, 32, 3, 8, 2, 4, cache_dtype='bfloat16')
QWEN3 = small_model(64, 16, 32, 3, 8, 2, 4, architecture='qwen3')
MESHES = [(1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4), (1, 1, 8)]
UNTIED = {
  'tied_head': False,
  'param_dtype': 'bfloat16',
  'cache_dtype': 'float32',
}
ADAPTED = {'lora': lora.Lora(rank=2, alpha=4.0)}
FEW_PASSES = {  # buffers are laid out before these, which take the time
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}


def workload(model=MODEL, mesh_sizes=(1, 1, 1), **fields):
  sizes = {
    'train_rows': 8,
    'train_length': 16,
    'chunk': 4,
    'cache_rows': 8,
    'cache_columns': 24,
    **fields,
  }
  mesh_shape = dict(zip(sharding.AXES, mesh_sizes, strict=True))
  return memory.Workload(model, mesh_shape, **sizes)


def held(tree):
  """Bytes that the first device holds."""
  return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
  ('mesh_sizes', 'model'),
  [
    *[(mesh_sizes, MODEL) for mesh_sizes in MESHES],
    *itertools.product(
      [(1, 1, 1), (2, 2, 2)],
      [MODEL.replace(**UNTIED), MODEL.replace(**ADAPTED), QWEN3],
    ),
  ],
)
def test_arrays_are_as_large_as_predicted(mesh_sizes, model):
  devices = jax.devices()[: np.prod(mesh_sizes)]
  mesh = sharding.make_mesh(*mesh_sizes, devices=devices)
  params = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype), model.param_shapes()
  )
  trained, frozen = lora.split(params) if model.config.lora else (params, {})
  adam = optax.scale_by_adam().init(jax.tree.map(np.float32, trained))

  def placed(tree):
    return jax.device_put(tree, sharding.param_shardings(mesh, tree, model))

  with jax.set_mesh(mesh):
    init_cache = jax.jit(Model.init_cache, static_argnums=(0, 1, 2))
    cache = init_cache(model, 8, 24)
    predicted = memory.predict(workload(model, mesh_sizes))
  assert predicted.params == held(placed(trained))
  assert predicted.frozen == held(placed(frozen))
  assert predicted.moments == held(placed((adam.mu, adam.nu)))
  assert predicted.cache == held((cache.k, cache.v))
  assert predicted.reference == (0 if model.config.lora else predicted.params)


@pytest.mark.parametrize('fields', [{}, UNTIED, ADAPTED])
def test_a_critic_is_as_large_as_predicted(fields):
  """Its own backbone or adapters, one column, their moments; no other head."""
  model = MODEL.replace(**fields)
  params = model.param_shapes()
  backbone, head = jax.eval_shape(values.init_params, params)
  trained = lora.split(backbone)[0] if model.config.lora else backbone
  trained = {**trained, **head}
  moments = optax.scale_by_adam().init(jax.tree.map(jnp.zeros_like, trained))
  moments = jax.tree.map(lambda x: x.astype('float32'), moments)
  expected = sum(
    x.nbytes if hasattr(x, 'nbytes') else x.size * x.dtype.itemsize
    for x in jax.tree.leaves((trained, moments.mu, moments.nu))
  )
  plain = memory.predict(workload(model))
  found = memory.predict(workload(model, critic=True))
  assert found.critic == expected
  assert plain.critic == 0
  assert found.resident == plain.resident + expected
  assert found.training == plain.training + expected
  assert 'critic' in str(found)
  assert 'critic' not in str(plain)


def test_types_of_moments_and_of_the_sampler():
  model = MODEL.replace(dtype='bfloat16')
  exact = memory.predict(workload(model))
  small = memory.predict(
    workload(model, moments_dtype='bfloat16', sampler_copy=True)
  )
  assert exact.moments == 2 * exact.params
  assert small.moments == small.params
  assert (exact.sampler, small.sampler) == (0, small.params // 2)


def compiled_work(fn, *shapes):
  """Bytes that XLA takes besides arguments and results."""
  program = jax.jit(fn).lower(*shapes).compile(compiler_options=FEW_PASSES)
  return program.memory_analysis().temp_size_in_bytes


# Large enough that what grows with the tokens outweighs everything else.
DEEP = small_model(64, 128, 512, 10, 8, 2, 16, cache_dtype='bfloat16')
# Without remat XLA also keeps scores of the plain attention twice, at times.
BANDS = {'none': (0.6, 1.1), 'dots': (0.9, 1.25), 'full': (0.85, 1.25)}


@pytest.mark.parametrize('remat', BANDS)
@pytest.mark.parametrize(
  'length', [64, pytest.param(256, marks=pytest.mark.slow)]
)
def test_backward_pass_needs_what_is_predicted(remat, length):
  model = DEEP.replace(remat=remat)
  params = model.param_shapes()
  tokens = jax.ShapeDtypeStruct((4, length), jnp.int32)

  def loss(params, tokens):
    return jnp.mean(model.forward(params, tokens) ** 2)

  actual = compiled_work(jax.grad(loss), params, tokens)
  predicted = memory.predict(workload(model, train_rows=4, train_length=length))
  low, high = BANDS[remat]
  assert low < (predicted.activations + predicted.block) / actual < high


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('chunk', [8, 64])
def test_chunks_of_logits_need_what_is_predicted(dtype, chunk):
  model = MODEL.replace(vocab_size=8192, width=32, dtype=dtype)
  rows, length = 4, 128
  params = model.param_shapes()
  hidden = jax.ShapeDtypeStruct((length // chunk, rows * chunk, 32), dtype)

  def loss(params, hidden):
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def score(hidden):
      log_probs = jax.nn.log_softmax(model.logits(params, hidden))
      entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
      own = jnp.arange(model.config.vocab_size)[None] == 7
      return jnp.sum(jnp.where(own, log_probs, 0), axis=-1) + entropy

    return jnp.sum(jax.lax.map(score, hidden))

  actual = compiled_work(jax.grad(loss), params, hidden)
  predicted = memory.predict(workload(model, train_rows=rows, chunk=chunk))
  assert 0.8 < predicted.logits / actual < 1.25


def test_a_chunk_needs_the_part_of_the_cache_that_it_works_on():
  """Where the rows are short, it is cut out of the cache."""
  model = small_model(64, 64, 128, 10, 4, 2, 16)
  shapes = decode.DecodeShapes(
    rows=8, max_reply=64, prompt_buckets=(512, 1024), prefill_buckets=(1,),
    max_choices=0, chunk=4, prefill_rows=1, end_id=1, pad_id=0,
  )  # fmt: skip
  params = model.param_shapes()
  chunk = functools.partial(
    decode.decode_chunk.__wrapped__, model=model, method=Sampling(),
    span=shapes.spans[0], chunk=4, end_id=1,
  )  # fmt: skip
  state = jax.eval_shape(lambda: decode.init_state(model, shapes))
  program = jax.jit(chunk, donate_argnums=0).lower(state, params, 1.0)
  actual = program.compile(compiler_options=FEW_PASSES).memory_analysis()
  assert shapes.copied_columns == shapes.spans[0]
  predicted = memory.predict(
    workload(
      model,
      cache_rows=shapes.rows,
      cache_columns=shapes.columns,
      cache_part=shapes.copied_columns,
    )
  )
  ratio = actual.temp_size_in_bytes / predicted.sampling
  assert 0.85 < ratio < 1.15


def test_activations_are_split_as_rows_and_heads_are():
  sizes = {'train_rows': 8, 'train_length': 32}
  whole = memory.predict(workload(**sizes))
  for mesh_sizes in [(8, 1, 1), (1, 8, 1)]:
    part = memory.predict(workload(mesh_sizes=mesh_sizes, **sizes))
    assert part.activations * 8 == whole.activations
  heads = memory.predict(workload(mesh_sizes=(1, 1, 2), **sizes))
  # Scores and columns are split; the width is not.
  assert whole.activations / 2 < heads.activations < whole.activations


def test_each_remat_policy_keeps_less_than_the_one_before():
  kept = [
    memory.predict(workload(MODEL.replace(remat=name))) for name in POLICIES
  ]
  sizes = [m.activations for m in kept]
  assert sizes == sorted(sizes, reverse=True)
  assert len(set(sizes)) == len(sizes)
  assert len({m.block for m in kept}) == 1


def test_prediction_does_not_depend_on_the_mesh_that_is_meant():
  work = workload(mesh_sizes=(1, 1, 8), train_length=40)
  with jax.set_mesh(sharding.make_mesh(1, 1, 8)):
    within = memory.predict(work)
  memory._kept_per_row.cache_clear()
  assert memory.predict(work) == within


def test_peaks_are_sums_of_what_is_there_at_once():
  parts = memory.Memory(
    params=1, frozen=2, moments=4, reference=8, sampler=16, gradients=32,
    activations=64, block=128, logits=256, cache=512, sampling=1024,
  )  # fmt: skip
  assert parts.training == 1 + 2 + 4 + 8 + 32 + 64 + 256
  assert parts.rollout == parts.total == 1 + 2 + 4 + 8 + 16 + 512 + 1024
  assert 'moments' in str(parts)
  assert 'frozen' not in str(dataclasses.replace(parts, frozen=0))


def test_what_fits_is_returned():
  work = workload()
  need = memory.predict(work)
  assert fitting.check(work, need.total) == need


LARGE = workload(
  registry.preset('1.5b', attention='plain'),
  train_rows=8,
  train_length=1024,
  chunk=256,
  cache_rows=64,
  cache_columns=2048,
)


def test_each_cure_that_is_named_cures():
  fitting_size = 75 * memory.GIB
  with pytest.raises(types.ConfigError) as caught:
    fitting.check(LARGE, fitting_size)
  text = str(caught.value)
  assert 'expected at most the 75.000 GiB' in text
  assert "remat='dots'; train_rows=4 instead of 8; mesh.fsdp=2" in text
  model = LARGE.model.replace(remat='dots')
  for change in (
    {'model': model},
    {'train_rows': 4},
    {'mesh_shape': {**LARGE.mesh_shape, 'fsdp': 2}},
  ):
    fitting.check(dataclasses.replace(LARGE, **change), fitting_size)
  assert 'chunk=' not in text
  chunked = dataclasses.replace(LARGE, chunk=1)
  assert memory.predict(chunked).total > fitting_size


def test_cures_are_joined_where_none_is_enough():
  with pytest.raises(types.ConfigError, match='together would') as caught:
    fitting.check(LARGE, 4 * memory.GIB)
  assert str(caught.value).split('together would: ')[1] == (
    "remat='full'; chunk=128 instead of 256; train_rows=1 instead of 8; "
    "moments_dtype='bfloat16'; "
    'mesh.fsdp=16 (16 devices) with train_rows=16.'
  )


def test_hopeless_is_said():
  with pytest.raises(types.ConfigError, match='smaller model or larger'):
    fitting.check(LARGE, 1000)


def test_cpu_does_not_tell_its_memory():
  assert jax.default_backend() != 'cpu' or memory.device_memory() is None
