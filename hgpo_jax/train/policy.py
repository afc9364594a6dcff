"""An experiment's policy: its model, where its params lie, how it scores."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from transformers import PreTrainedTokenizerFast

from hgpo_jax import random_streams, types
from hgpo_jax.config import PPO, Config
from hgpo_jax.model import fitting, lora, memory, sharding, values, weights
from hgpo_jax.model import tokenizer as tokenizer_lib
from hgpo_jax.model.interface import Model
from hgpo_jax.multihost import hosts
from hgpo_jax.random_streams import Key
from hgpo_jax.sampler import decode, scoring
from hgpo_jax.train import build, checkpoint, packing, update
from hgpo_jax.train import critic as critic_lib
from hgpo_jax.types import Params, PyTree

Tree = TypeVar('Tree')  # params, or a record that holds copies of them


class Policy:
  """What a config and a tokenizer say of the policy.

  Attributes:
    config: the experiment.
    tokenizer: Hugging Face's.
    base: the model that is warm-started and is the KL's reference.
    model: the policy: the same, or `base` with adapters.
    mesh: the devices, None where there is one.
    own_mesh: of several processes, the devices of this one, on which it plays
      its own episodes; None where it is alone.
  """

  def __init__(
    self,
    config: Config,
    tokenizer: PreTrainedTokenizerFast,
    mesh: jax.sharding.AbstractMesh | None = None,
  ):
    """Refuses what cannot be laid out; nothing is allocated.

    Args:
      config: the experiment.
      tokenizer: Hugging Face's.
      mesh: devices to predict for, which need not be here; those of the config
        by default.
    """
    self.config, self.tokenizer = config, tokenizer
    self.base = build.model_of(config.policy, len(tokenizer))
    adapters = build.adapters_of(config.policy.lora)
    self.model = self.base.replace(lora=adapters)
    self.mesh = mesh or build.mesh_of(config)
    self.own_mesh: jax.sharding.Mesh | None = None
    if isinstance(self.mesh, jax.sharding.Mesh) and hosts.count() > 1:
      self.own_mesh = sharding.own_part(self.mesh)
    sharding.check(self.base, self._mesh_shape)

  # ---- sizes ----

  @property
  def shapes(self) -> packing.Shapes:
    """What the learner packs turns into."""
    return build.shapes_of(self.config)

  @property
  def decode_shapes(self) -> decode.DecodeShapes:
    """The shapes of this process's generation."""
    c = self.config
    limited = c.env.constrained
    try:
      return decode.DecodeShapes(
        rows=hosts.portion(c.rollout.decode_rows or c.rollout.episodes),
        max_reply=c.sampling.max_reply,
        prompt_buckets=tuple(c.sampling.prompt_buckets),
        prefill_buckets=tuple(c.sampling.prefill_buckets),
        max_choices=max(c.sampling.choice_buckets) if limited else 0,
        chunk=c.sampling.chunk,
        prefill_rows=c.sampling.prefill_rows,
        end_id=tokenizer_lib.end_id(self.tokenizer),
        pad_id=tokenizer_lib.pad_id(self.tokenizer),
      )
    except ValueError as error:
      raise types.ConfigError(f'sampling.{error}') from error

  def memory(self) -> memory.Memory:
    """Predicts what a device will hold.

    Raises: ConfigError that says what would fit, where it does not.
    """
    c, shapes = self.config, self.decode_shapes
    work = memory.Workload(
      self.model,
      self._mesh_shape,
      train_rows=c.optim.microbatch_rows,
      train_length=c.optim.row_tokens,
      chunk=self._chunk,
      cache_rows=shapes.rows * hosts.count(),
      cache_columns=shapes.columns,
      cache_part=shapes.copied_columns,
      prefill_rows=max(shapes.prefill_buckets),
      prefill_length=max(shapes.prompt_buckets),
      moments_dtype=c.optim.moments_dtype,
      sampler_copy=self._casts or self.own_mesh is not None,
      sampler_mesh=None if self.own_mesh is None else self.own_mesh.shape,
      critic=self.has_critic,
    )
    available = int(c.mesh.device_gib * memory.GIB) or memory.device_memory()
    return fitting.check(work, available) if available else memory.predict(work)

  @property
  def has_critic(self) -> bool:
    """Whether the config's estimator needs one."""
    return self.config.algo.estimator == PPO

  @property
  def _mesh_shape(self) -> dict[str, int]:
    if self.mesh is None:
      return dict.fromkeys(sharding.AXES, 1)
    return dict(self.mesh.shape)

  @property
  def _chunk(self) -> int:
    return min(self.config.optim.logits_chunk, self.config.optim.row_replies)

  # ---- params ----

  def init_params(self) -> Params:
    """Base params: of `policy.checkpoint`, else drawn at random.

    See `policy.embed_std` and `policy.compose_embeddings` for the latter.
    """
    policy, like = self.config.policy, self._like()
    if policy.checkpoint:
      folder = weights.find(policy.checkpoint)
      shardings = self._shardings(like)
      return weights.load(folder, self.base, shardings=shardings)
    key = random_streams.key(self.config.seed, Key.INIT_PARAMS)
    params = self._made(self.base.init, key)
    params['embed'] *= policy.embed_std / self.base.config.init_std
    if policy.compose_embeddings:
      parts = tokenizer_lib.token_parts(self.tokenizer)
      rows = composed(params['embed'], parts)
      params['embed'] = jax.device_put(rows, params['embed'].sharding)
    return params

  def warm_params(self, folder: pathlib.Path) -> Params:
    """Base params of the warm start in `folder`."""
    if not (folder / 'params').exists():  # a checkpoint as it came
      return self.init_params()
    with checkpoint.opened(folder / 'params') as store:
      return store.restore(self._like())

  def saved_params(
    self,
    folder: pathlib.Path,
    store: checkpoint.Checkpoints,
    step: int | None,
  ) -> Params:
    """All params of the policy that a run saved.

    Args:
      folder: the run's; its warm start is what adapters are added to.
      store: its checkpoints.
      step: iterations done; the newest where None.
    """
    if self.model.config.lora is None:
      return store.restore_params(self._like(), step)
    adapters = store.restore_params(self._adapters(), step)
    return lora.combine(adapters, self.warm_params(folder / 'warm_start'))

  def init_state(
    self,
    base: Params,
    optimizer: optax.GradientTransformation,
    critic_optimizer: optax.GradientTransformation | None = None,
  ) -> types.TrainState:
    """Starts the training of base params, which stay as they are.

    Without adapters a copy of them is trained, as a step gives its input's
    memory away.

    Args:
      base: of the warm start.
      optimizer: of the policy.
      critic_optimizer: of a critic, which starts from the same params; None
        makes none.
    """
    state = self._started(base, {}, optimizer)
    if critic_optimizer is None:
      return state
    backbone, head = values.init_params(base)
    critic = self._started(backbone, head, critic_optimizer)
    return dataclasses.replace(state, critic=critic)

  def _started(
    self, base: Params, extra: Params, optimizer: optax.GradientTransformation
  ) -> types.TrainState:
    """Trains base params, or adapters to them, and `extra` ones."""
    if self.model.config.lora is None:
      params, frozen = jax.tree.map(lambda x: x.copy(), base), {}
    else:
      params, frozen = self._adapters(), base
    state = self.placed(update.init_state({**params, **extra}, optimizer))
    return dataclasses.replace(state, frozen=frozen)

  def for_sampling(self, params: Params) -> Params:
    """The params where and in what type replies are computed, made once.

    A step that decodes a few tokens would otherwise read and cast all of them.
    """
    params = _cast(params, self.model.config.dtype) if self._casts else params
    if self.own_mesh is None:
      return params
    mesh = build.mesh_of(self.config)
    assert mesh is not None  # as there is a part of it
    return sharding.on_own_part(mesh, self.own_mesh, params, self.base)

  def on_own_mesh(self) -> contextlib.AbstractContextManager[Any]:
    """Inside of this, JAX runs on this process's devices alone."""
    own = self.own_mesh
    return contextlib.nullcontext() if own is None else jax.set_mesh(own)

  def placed(self, tree: Tree) -> Tree:
    """Lays params, or what holds copies of them, out on the mesh."""
    shardings = self._shardings(tree)
    return tree if shardings is None else jax.device_put(tree, shardings)

  @property
  def _casts(self) -> bool:
    config = self.model.config
    return config.dtype != config.param_dtype

  def _like(self) -> Params:
    """Shapes, types and places of the base params."""
    shapes = self.base.param_shapes()
    places = self._shardings(shapes)
    if places is None:
      return shapes
    return jax.tree.map(
      lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      shapes,
      places,
    )

  def _adapters(self) -> Params:
    """New adapters, which do nothing yet."""

    def draw(key: jax.Array) -> Params:
      return lora.split(self.model.init(key))[0]

    key = random_streams.key(self.config.seed, Key.INIT_ADAPTERS)
    return self._made(draw, key)

  def _made(self, fn: Callable[[jax.Array], Params], key: jax.Array) -> Params:
    """Computes params, each where it belongs."""
    places = self._shardings(jax.eval_shape(fn, key))
    return jax.jit(fn, out_shardings=places)(key)

  def _shardings(self, tree: PyTree) -> PyTree | None:
    if self.mesh is None:
      return None
    return sharding.param_shardings(self.mesh, tree, self.base)

  # ---- scoring ----

  def score(
    self, temperature: float, model: Model | None = None
  ) -> update.ScoreFn:
    """Returns (params, rows) -> log-probs and entropy, of the policy's model.

    Args:
      temperature: that replies were sampled with.
      model: another one, such as `base`.
    """
    return functools.partial(
      scoring.score,
      model or self.model,
      temperature=temperature,
      chunk=self._chunk,
    )

  def values(self) -> critic_lib.ValueFn:
    """Returns (params, rows) -> values, of a critic of the policy's size."""
    return functools.partial(values.values, self.model)


@functools.partial(jax.jit, static_argnums=1)
def _cast(params: Params, dtype: str) -> Params:
  return jax.tree.map(lambda x: x.astype(dtype), params)


def composed(embed: jax.Array, parts: dict[int, list[int]]) -> jax.Array:
  """Starts the embedding of a phrase as the sum of its words'.

  `fridge 1` and `fridge` are then alike from the start, so that a policy can
  learn to look for what a task names, whatever that is, instead of learning it
  for each thing.

  Args:
    embed: `[V, D]`, independent rows of equal variance.
    parts: token -> the tokens of its words.

  Returns: `[V, D]` with rows of the same variance.
  """
  drawn = hosts.whole(embed)
  rows = drawn.copy()
  for token, words in parts.items():
    rows[token] = np.sum(drawn[words], axis=0) / len(words) ** 0.5
  return jnp.asarray(rows)


def policy_of(state: types.TrainState) -> Params:
  """All params of the policy: the trained ones and the frozen ones."""
  return lora.combine(state.params, state.frozen)
