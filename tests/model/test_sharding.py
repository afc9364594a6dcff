"""Split over any mesh, the model computes what it computes on one device."""

import contextlib
import functools
import re
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from hgpo_jax import types
from hgpo_jax.model import sharding
from hgpo_jax.model.cache import KVCache
from hgpo_jax.model.interface import Model
from hgpo_jax.model.lora import Lora
from tests.small_decoder import small_model

MODEL = small_model(64, 16, 32, 3, 8, 2, 4)
UNTIED = MODEL.replace(tied_head=False)
ADAPTED = MODEL.replace(
  lora=Lora(rank=2, alpha=4.0, targets=('k_proj', 'down_proj'))
)
QWEN3 = small_model(64, 16, 32, 3, 8, 2, 4, architecture='qwen3')
B, L = 8, 9
PROMPT, NEW, COLUMNS = 5, 6, 13  # tokens; no size of the model divides 13
FEW = [
  (8, 1, 1),
  (1, 8, 1),
  (1, 1, 8),
  (2, 2, 2),
  (1, 2, 4),
  (2, 1, 4),
  (4, 2, 1),
]
MORE = [(1, 4, 2), (4, 1, 2), (2, 4, 1)]  # with FEW: all of 8 devices
CASES = [
  *[(MODEL, mesh) for mesh in FEW],
  *[pytest.param((MODEL, mesh), marks=pytest.mark.slow) for mesh in MORE],
  *[(model, (2, 2, 2)) for model in (UNTIED, ADAPTED, QWEN3)],
  *[
    pytest.param((model, (1, 2, 4)), marks=pytest.mark.slow)
    for model in (UNTIED, ADAPTED, QWEN3)
  ],
]
TRAFFIC = ('all-gather', 'all-reduce', 'all-to-all', 'collective-permute')
# A large epsilon, so that a gradient which is zero but for rounding does not
# decide the sign of a whole step.
ADAMW = optax.chain(
  optax.clip_by_global_norm(1.0), optax.adamw(1e-2, eps=1e-3, b1=0.5)
)
# The time of these tests is that of compiling, so little is optimised.
jit = functools.partial(
  jax.jit,
  compiler_options={
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
  },
)


def name(case):
  model, mesh = case
  kind = {MODEL: 'tied', UNTIED: 'untied', ADAPTED: 'lora', QWEN3: 'qwen3'}[
    model
  ]
  return f'{kind}-{"x".join(map(str, mesh))}'


@functools.cache
def random_params(model):
  """Larger than at initialisation, biases and adapters too."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: rng.normal(0, 0.2, x.shape).astype(x.dtype),
    model.param_shapes(),
  )


def random_tokens():
  rng = np.random.default_rng(1)
  return rng.integers(0, MODEL.config.vocab_size, (B, L), dtype=np.int32)


def loss_fn(params, model, tokens):
  hidden = model.forward(params, tokens)
  log_probs = jax.nn.log_softmax(model.logits(params, hidden[:, :-1]))
  return -jnp.mean(jnp.take_along_axis(log_probs, tokens[:, 1:, None], -1))


@functools.partial(jit, static_argnames='model')
def gradient(model, params, tokens):
  return jax.value_and_grad(loss_fn)(params, model, tokens)


@jit
def update(params, opt_state, grads):
  updates, opt_state = ADAMW.update(grads, opt_state, params)
  return optax.apply_updates(params, updates), opt_state


@functools.partial(jit, static_argnames='model')
def start(model, params, prompts, lengths):
  """Prompts -> their next tokens `[B]` and a cache with room for more."""
  hidden, read = model.prefill(params, prompts, lengths)
  room = model.init_cache(B, COLUMNS)
  k = room.k.at[..., :PROMPT].set(read.k)
  v = room.v.at[..., :PROMPT, :].set(read.v)
  return greedy(model, params, hidden), KVCache(k, v, lengths)


@functools.partial(jit, static_argnames='model', donate_argnames='cache')
def decode(model, params, tokens, cache):
  hidden, cache = model.decode(params, tokens, cache)
  return greedy(model, params, hidden), cache


def greedy(model, params, hidden):
  return jnp.argmax(model.logits(params, hidden), axis=-1)


def generate(model, params, prompts, lengths):
  """Prompts -> `[B, NEW]` tokens, and the cache that was filled."""
  tokens, cache = start(model, params, prompts, lengths)
  out = [tokens]
  for _ in range(NEW - 1):
    tokens, cache = decode(model, params, tokens, cache)
    out.append(tokens)
  return np.stack(out, axis=1), cache


def random_prompts():
  return random_tokens()[:, :PROMPT], np.arange(B, dtype=np.int32) % PROMPT + 1


@functools.cache
def single(model):
  """What one device computes: loss and gradients, and greedy tokens."""
  params = random_params(model)
  tokens, _ = generate(model, params, *random_prompts())
  return gradient(model, params, random_tokens()), tokens


@contextlib.contextmanager
def placed(model, mesh_sizes):
  """A mesh that is meant, and the params on it."""
  mesh = sharding.make_mesh(*mesh_sizes)
  with jax.set_mesh(mesh):
    yield mesh, place(mesh, random_params(model), model)


def place(mesh, tree, model=MODEL):
  return jax.device_put(tree, sharding.param_shardings(mesh, tree, model))


def place_rows(mesh, *arrays):
  split = NamedSharding(mesh, PartitionSpec(sharding.RULES['rows']))
  return [jax.device_put(x, split) for x in arrays]


def part(x):
  """Shape of what one device holds of an array."""
  return x.addressable_shards[0].data.shape


def assert_same_parts(tree, other):
  jax.tree.map(
    lambda a, b: np.testing.assert_equal(part(a), part(b)), tree, other
  )


def assert_trees_close(actual, expected, **tolerance):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, **tolerance), actual, expected
  )


@pytest.mark.parametrize('case', CASES, ids=name)
def test_loss_and_gradients_equal_single_device(case):
  model, mesh_sizes = case
  with placed(model, mesh_sizes) as (mesh, params):
    loss, grads = gradient(model, params, *place_rows(mesh, random_tokens()))
  (expected_loss, expected), _ = single(model)
  np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
  assert_trees_close(grads, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('case', CASES, ids=name)
def test_greedy_tokens_equal_single_device(case):
  model, mesh_sizes = case
  with placed(model, mesh_sizes) as (mesh, params):
    tokens, cache = generate(
      model, params, *place_rows(mesh, *random_prompts())
    )
  np.testing.assert_array_equal(tokens, single(model)[1])
  data, fsdp, tensor = mesh_sizes
  heads = max(
    1, MODEL.config.num_kv_heads // tensor
  )  # copied rather than split
  rows = B // (data * fsdp)
  assert part(cache.k) == (MODEL.config.num_layers, rows, heads, 4, COLUMNS)
  assert part(cache.v) == (MODEL.config.num_layers, rows, heads, COLUMNS, 4)


def test_adamw_step_equals_single_device():
  start = random_params(MODEL)
  _, grads = gradient(MODEL, start, random_tokens())
  moments = jax.device_get(ADAMW.init(start))
  expected = update(start, moments, grads)
  with placed(MODEL, (2, 2, 2)) as (mesh, params):
    _, grads = gradient(MODEL, params, *place_rows(mesh, random_tokens()))
    actual = update(params, place(mesh, moments), grads)
  assert_trees_close(actual, expected, atol=1e-5)
  moved = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), expected[0], start)
  assert min(jax.tree.leaves(moved)) > 1e-4
  assert_same_parts(actual[0], params)


@pytest.mark.parametrize('mesh_sizes', [(1, 2, 4), (2, 2, 2), (1, 1, 8)])
def test_decode_moves_no_cache_between_devices(mesh_sizes):
  with placed(MODEL, mesh_sizes) as (mesh, params):
    prompts = place_rows(mesh, *random_prompts())
    tokens, cache = start(MODEL, params, *prompts)
    program = decode.lower(MODEL, params, tokens, cache).compile().as_text()
  moved = re.findall(rf'= (.*) (?:{"|".join(TRAFFIC)})\(', program)
  sizes = {int(n) for m in moved for n in re.findall(r'(?<=[\[,])\d+', m)}
  assert sizes  # there is traffic, of single tokens
  assert not [n for n in sizes if n and n % COLUMNS == 0], moved


def test_empty_cache_is_split_at_once():
  with placed(MODEL, (2, 2, 2)):
    make = jax.jit(Model.init_cache, static_argnums=(0, 1, 2))
    cache = make(MODEL, B, COLUMNS)
  assert part(cache.k) == (3, 2, 1, 4, COLUMNS)
  assert part(cache.v) == (3, 2, 1, COLUMNS, 4)
  assert part(cache.length) == (2,)


def test_params_and_moments_are_split():
  with placed(ADAPTED, (2, 2, 2)) as (mesh, params):
    opt_state = place(mesh, ADAMW.init(random_params(ADAPTED)))
  attention = params['layers']['attention']
  assert part(params['embed']) == (32, 8)
  assert part(attention['q_proj']['kernel']) == (3, 8, 16)
  assert part(attention['k_proj']['bias']) == (3, 4)
  assert part(attention['k_proj']['lora_a']) == (3, 8, 2)
  assert part(attention['k_proj']['lora_b']) == (3, 2, 4)
  assert part(attention['o_proj']['kernel']) == (3, 16, 8)
  mlp = params['layers']['mlp']
  assert part(mlp['gate_proj']['kernel']) == (3, 8, 16)
  assert part(mlp['down_proj']['kernel']) == (3, 16, 8)
  assert part(mlp['down_proj']['lora_a']) == (3, 16, 2)
  assert part(mlp['down_proj']['lora_b']) == (3, 2, 8)
  assert part(params['norm']['scale']) == (16,)
  adam = opt_state[1][0]
  assert_same_parts(adam.mu, params)
  assert_same_parts(adam.nu, params)
  assert adam.count.sharding == NamedSharding(mesh, PartitionSpec())


def specs(tree, model=MODEL, **mesh_shape):
  mesh_shape = {'data': 1, 'fsdp': 1, 'tensor': 1, **mesh_shape}
  return sharding.param_specs(mesh_shape, tree, model)


def test_key_heads_are_never_cut():
  tree = random_params(MODEL)['layers']['attention']
  stacked = {'layers': tree}
  two = specs(stacked, tensor=2)['layers']
  assert two['k_proj']['kernel'] == PartitionSpec(None, None, ('tensor',))
  # 2 heads of 4 columns: 4 devices would get half a head each.
  four = specs(stacked, tensor=4)['layers']
  assert four['k_proj']['kernel'] == PartitionSpec(None, None, None)
  assert four['v_proj']['bias'] == PartitionSpec(None, None)
  assert four['q_proj']['kernel'] == PartitionSpec(None, None, ('tensor',))


def test_axis_that_does_not_divide_stays_whole():
  shape = jax.ShapeDtypeStruct((50, 16), jnp.float32)
  spec = specs({'embed': shape}, fsdp=8, tensor=4)['embed']
  assert spec == PartitionSpec(None, ('fsdp',))


def test_rows_are_split_over_data_and_fsdp():
  mesh = sharding.make_mesh(2, 2, 2)
  with jax.set_mesh(mesh):
    x = sharding.constrain(jnp.zeros((8, 3, 5)), 'rows', None, None)
    y = sharding.constrain(jnp.zeros((6, 3, 5)), 'rows', None, None)
  assert part(x) == (2, 3, 5)
  assert part(y) == (6, 3, 5)  # 4 devices do not divide 6 rows


def test_heads_that_tensor_does_not_divide_are_refused():
  model = MODEL.replace(num_heads=6)
  with pytest.raises(types.ConfigError, match=r'tensor=4.*6 .*\[1, 2, 3, 6\]'):
    specs({}, model, tensor=4)
  specs({}, model, tensor=3)


def test_unknown_param_is_named():
  tree = {'layers': {'mystery': jax.ShapeDtypeStruct((3, 4), jnp.float32)}}
  with pytest.raises(ValueError, match='layers/mystery.*param_axes'):
    specs(tree)


def test_misshapen_param_is_named():
  tree = {'layers': {'embed': jax.ShapeDtypeStruct((3, 4), jnp.float32)}}
  with pytest.raises(ValueError, match=r"\['embed'\].*\(3, 4\).*vocab"):
    specs(tree)


def test_mesh_sizes():
  assert sharding.make_mesh(2, -1, 2).shape['fsdp'] == 2
  assert sharding.make_mesh(devices=jax.devices()[:1]).size == 1
  for sizes in [(3, 1, 1), (-1, -1, 1), (0, 8, 1), (1, 1, 1)]:
    with pytest.raises(ValueError, match='8 devices'):
      sharding.make_mesh(*sizes)


def test_without_a_mesh_nothing_is_constrained():
  x = jnp.zeros((4, 2))
  assert sharding.constrain(x, 'rows', None) is x
  assert sharding.axis_size('tensor') == 1


def test_a_mesh_is_meant_in_its_own_thread_alone():
  mesh = sharding.make_mesh(8)
  found = {}

  def look(name):
    x = jax.jit(lambda x: sharding.constrain(x, 'rows'))(jnp.zeros(8))
    found[name] = part(x)

  def enter_and_look():
    with jax.set_mesh(mesh):
      look('entered')

  with jax.set_mesh(mesh):
    for task in (functools.partial(look, 'started'), enter_and_look):
      thread = threading.Thread(target=task)
      thread.start()
      thread.join()
  assert found == {'started': (8,), 'entered': (1,)}
