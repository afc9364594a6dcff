"""What a run will hold on each device, from shapes alone.

Params, gradients, moments and the cache are exact: their shapes are known and
`sharding` says how they are split. What the backward pass keeps is read off
the model's own traced derivative, so that it follows every remat policy and
attention. Only the space in which XLA works is estimated, by the constants
below.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from hgpo_jax.model import lora, sharding, values
from hgpo_jax.model.interface import Model
from hgpo_jax.types import Leaf, Params, PyTree

GIB = 2**30

# A block's backward pass, in units of what the block would keep without remat:
# 0.8 to 1.4 in XLA's own accounts for the CPU.
WORK = 1.25


@dataclasses.dataclass(frozen=True)
class Workload:
  """What is to run; all sizes are of the whole mesh.

  Attributes:
    model: with its types, remat policy and adapters.
    mesh_shape: size of each of `sharding.AXES`.
    train_rows: rows of one training micro-batch.
    train_length: tokens of each.
    chunk: tokens of a row whose logits are held at once while training.
    cache_rows: replies that are sampled together.
    cache_columns: tokens of prompt and reply that each has room for.
    cache_part: of them, those that a chunk of decoding copies out of the cache
      to work on; 0 where it works on the cache itself.
    prefill_rows: prompts that are read in one call.
    prefill_length: tokens of each.
    moments_dtype: name of the type of both of Adam's moments.
    reference: whether a frozen copy of the policy is kept. With adapters it
      costs nothing: the frozen params are it.
    sampler_copy: whether replies are sampled from a copy of the params in
      the type of activations.
    sampler_mesh: as `mesh_shape`, of the part of the mesh that holds such a
      copy; None is all of it.
    critic: whether a critic of the policy's size is trained beside it.
  """

  model: Model
  mesh_shape: Mapping[str, int]
  train_rows: int
  train_length: int
  chunk: int
  cache_rows: int
  cache_columns: int
  cache_part: int = 0
  prefill_rows: int = 0
  prefill_length: int = 0
  moments_dtype: str = 'float32'
  reference: bool = True
  sampler_copy: bool = False
  sampler_mesh: Mapping[str, int] | None = None
  critic: bool = False


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes on one device, by what they are for.

  Attributes:
    params: what is trained.
    frozen: params that adapters adapt.
    moments: Adam's two.
    reference: the frozen copy of the policy.
    sampler: the copy that replies are sampled from.
    gradients: of a micro-batch, and the float32 sum that they are added to.
    activations: what the backward pass finds of the forward pass.
    block: work space of one block in the backward pass, its params included.
    logits: those of one chunk, and the head's matrix and gradient beside them.
    cache: keys and values.
    sampling: what a decoding step works with, or a call that reads prompts.
    critic: what is trained of a critic, and its moments. It takes its steps in
      turn with the policy, where the policy's gradients were.
  """

  params: int
  frozen: int
  moments: int
  reference: int
  sampler: int
  gradients: int
  activations: int
  block: int
  logits: int
  cache: int
  sampling: int
  critic: int = 0

  @property
  def resident(self) -> int:
    """What is there all the time."""
    policy = self.params + self.frozen + self.moments
    return policy + self.reference + self.critic

  @property
  def training(self) -> int:
    """The peak of an update, when the cache is gone.

    Logits are gone when a block works backwards.
    """
    work = self.activations + max(self.block, self.logits)
    return self.resident + self.gradients + work

  @property
  def rollout(self) -> int:
    """The peak while replies are sampled."""
    return self.resident + self.sampler + self.cache + self.sampling

  @property
  def total(self) -> int:
    """The larger of both peaks."""
    return max(self.training, self.rollout)

  def table(self) -> str:
    """A line for each part that is not empty, and for the peaks, in GiB."""
    parts = dataclasses.asdict(self)
    peaks = {'training': self.training, 'rollout': self.rollout}
    lines = [
      f'  {name:<12}{size / GIB:10.3f}' for name, size in parts.items() if size
    ]
    lines += [
      f'  {name:<12}{size / GIB:10.3f} at its peak'
      for name, size in peaks.items()
    ]
    return '\n'.join(['predicted memory per device, GiB', *lines])

  __str__ = table


def predict(workload: Workload) -> Memory:
  """Adds up what each device will hold; nothing is allocated.

  Raises: ConfigError where the mesh does not suit the model.
  """
  model, mesh = workload.model, workload.mesh_shape
  shapes = _param_shapes(model)
  trained, frozen = lora.split(shapes) if model.config.lora else (shapes, {})
  size = functools.partial(_shard_bytes, mesh, model)
  params = size(trained)
  kept, block = _activations(workload)
  return Memory(
    params=params,
    frozen=size(frozen),
    moments=2 * size(trained, dtype=workload.moments_dtype),
    reference=params if workload.reference and not model.config.lora else 0,
    sampler=_sampler(workload, shapes) if workload.sampler_copy else 0,
    gradients=params + size(trained, dtype='float32'),
    activations=kept,
    block=block,
    logits=_logits(workload),
    cache=_cached(workload, workload.cache_rows, workload.cache_columns),
    sampling=_sampling(workload),
    critic=_critic(workload, trained) if workload.critic else 0,
  )


def _sampler(workload: Workload, shapes: Params) -> int:
  mesh = workload.sampler_mesh or workload.mesh_shape
  model = workload.model
  return _shard_bytes(mesh, model, shapes, dtype=model.config.dtype)


def _critic(workload: Workload, trained: Params) -> int:
  """Params and moments of a critic, where `trained` are the policy's."""
  shapes = _param_shapes(workload.model)
  _, head = jax.eval_shape(values.init_params, shapes)
  own = {**{n: x for n, x in trained.items() if n != 'head'}, **head}
  size = functools.partial(_shard_bytes, workload.mesh_shape, workload.model)
  return size(own) + 2 * size(own, dtype=workload.moments_dtype)


def device_memory() -> int | None:
  """Bytes that arrays may take on a device; None where the platform is silent.

  The CPU is: its memory is shared with everything else.
  """
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get('bytes_limit')


# ---- the parts --------------------------------------------------------------


@functools.cache
def _param_shapes(model: Model) -> Params:
  return model.param_shapes()


def _bytes(tree: PyTree) -> int:
  """Of whole arrays."""
  return sum(
    math.prod(x.shape) * jnp.dtype(x.dtype).itemsize
    for x in jax.tree.leaves(tree)
  )


def _shard_bytes(
  mesh_shape: Mapping[str, int],
  model: Model,
  tree: PyTree,
  *,
  dtype: str | None = None,
) -> int:
  """Of one device's part of params, as if they were of another type."""
  mesh = jax.sharding.AbstractMesh(
    tuple(mesh_shape[name] for name in sharding.AXES), sharding.AXES
  )

  def size(spec: PartitionSpec, leaf: Leaf) -> int:
    part = NamedSharding(mesh, spec).shard_shape(leaf.shape)
    return math.prod(part) * jnp.dtype(dtype or leaf.dtype).itemsize

  specs = sharding.param_specs(mesh_shape, tree, model)
  return sum(jax.tree.leaves(jax.tree.map(size, specs, tree)))


def _rows(workload: Workload, rows: int) -> int:
  """Rows of one device; all of them where they cannot be split evenly."""
  return _split(rows, row_ways(workload.mesh_shape))


def row_ways(mesh_shape: Mapping[str, int]) -> int:
  """Devices that have rows of their own."""
  return mesh_shape['data'] * mesh_shape['fsdp']


def _split(size: int, ways: int) -> int:
  """The part of an axis that a device has; whole if it cannot be split."""
  return size if size % ways else size // ways


def _activations(workload: Workload) -> tuple[int, int]:
  """Bytes kept by the forward pass, and work space of one block."""
  model, ways = workload.model, workload.mesh_shape['tensor']
  rows, length = _rows(workload, workload.train_rows), workload.train_length
  kept = rows * _kept_per_row(model, ways, length)
  block = int(WORK * rows * _block_per_row(workload, length))
  return kept, block + _gathered_block(workload)


def _block_per_row(workload: Workload, length: int) -> int:
  """Bytes that one block keeps of a row on one device without remat."""
  model, ways = workload.model, workload.mesh_shape['tensor']
  kept = _kept_per_row(model.replace(remat='none'), ways, length)
  return kept // model.config.num_layers


@functools.cache
def _kept_per_row(model: Model, tensor: int, length: int) -> int:
  """Bytes of a row that await the backward pass on one device.

  Heads and feed-forward columns are split over `tensor` devices and the width
  is not. What the former take is what a model with twice of them keeps more.
  """
  config = model.config
  kv_heads = math.lcm(config.num_kv_heads, tensor)
  model = model.replace(num_kv_heads=kv_heads)
  whole = _residual_bytes_per_row(model, length)
  if tensor == 1:
    return whole
  wider = model.replace(
    num_heads=2 * config.num_heads,
    num_kv_heads=2 * kv_heads,
    ff_width=config.ff_width * (1 if config.ff_width % tensor else 2),
  )
  split = _residual_bytes_per_row(wider, length) - whole
  return whole - split + split // tensor


def _residual_bytes_per_row(model: Model, length: int) -> int:
  """Bytes of a row that the model's derivative closes over.

  Taken from `jax.vjp`, traced. What two rows need more than one leaves out the
  params, which the backward pass reads too.
  """
  shapes = _param_shapes(model)
  trained, frozen = lora.split(shapes) if model.config.lora else (shapes, {})

  def residuals(trained: Params, frozen: Params, tokens: jax.Array) -> PyTree:
    def hidden(trained: Params) -> jax.Array:
      return model.forward(lora.combine(trained, frozen), tokens)

    return jax.vjp(hidden, trained)[1]

  def kept(rows: int) -> int:
    tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    return _bytes(jax.eval_shape(residuals, trained, frozen, tokens))

  nowhere = jax.sharding.AbstractMesh((), ())  # heads are copied already
  with jax.sharding.use_abstract_mesh(nowhere):
    return kept(2) - kept(1)


def _gathered_block(workload: Workload) -> int:
  """One block's params, gathered over fsdp and in the type of computation."""
  model = workload.model
  whole = {**workload.mesh_shape, 'data': 1, 'fsdp': 1}
  layers = {'layers': _param_shapes(model)['layers']}
  size = _shard_bytes(whole, model, layers, dtype=model.config.dtype)
  return size // model.config.num_layers if _is_copied(workload) else 0


def _is_copied(workload: Workload) -> bool:
  """Whether params are read through a copy: gathered, or of another type."""
  config = workload.model.config
  return workload.mesh_shape['fsdp'] > 1 or config.dtype != config.param_dtype


def _head(workload: Workload) -> int:
  """The head's matrix in the type of computation, one device's columns."""
  config = workload.model.config
  itemsize = jnp.dtype(config.dtype).itemsize
  return _vocab(workload) * config.width * itemsize


def _chunk_logits(workload: Workload, tokens: int) -> int:
  """Float32 logits of so many tokens, one device's columns."""
  return tokens * _vocab(workload) * 4


def _vocab(workload: Workload) -> int:
  return _split(workload.model.config.vocab_size, workload.mesh_shape['tensor'])


def _logits(workload: Workload) -> int:
  """Logits, then their gradient or that of the head, whichever is larger."""
  rows = _rows(workload, workload.train_rows)
  logits = _chunk_logits(workload, rows * workload.chunk)
  head = _head(workload)
  gradient = 0 if workload.model.config.lora else head
  return logits + max(logits, gradient) + head * _is_copied(workload)


def _cached(workload: Workload, rows: int, columns: int) -> int:
  """Keys and values of so many tokens on one device, in whole heads."""
  config, ways = workload.model.config, workload.mesh_shape['tensor']
  heads = math.lcm(config.num_kv_heads, ways) // ways
  size = 2 * config.num_layers * heads * config.head_dim
  itemsize = jnp.dtype(config.cache_dtype).itemsize
  return size * _rows(workload, rows) * columns * itemsize


def _sampling(workload: Workload) -> int:
  """The larger of a decoding step and the reading of prompts.

  A step holds its logits twice, as probabilities and their sums, and a copy of
  the layer of the cache that it reads, beside the part that its chunk works on.
  Prompts need their own keys and values, and a block's work space without its
  gradients.
  """
  rows = _rows(workload, workload.cache_rows)
  cache = _cached(workload, workload.cache_rows, workload.cache_columns)
  layer = cache // workload.model.config.num_layers
  part = _cached(workload, workload.cache_rows, workload.cache_part)
  step = part + layer + 2 * _chunk_logits(workload, rows)
  prompts, length = 0, workload.prefill_length
  if workload.prefill_rows:
    rows = _rows(workload, workload.prefill_rows)
    prompts = rows * _block_per_row(workload, length)
    prompts += _cached(workload, workload.prefill_rows, length)
  params = _gathered_block(workload) + _head(workload) * _is_copied(workload)
  return max(step, prompts) + params
