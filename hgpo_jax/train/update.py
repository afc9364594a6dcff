"""TrainState, Batch -> TrainState, metrics; the project's only gradient."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar, Protocol, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from hgpo_jax import types
from hgpo_jax.config import Loss
from hgpo_jax.losses import SURROGATES, aggregate, kl, policy
from hgpo_jax.model import lora
from hgpo_jax.model.sharding import constrain
from hgpo_jax.sampler import scoring
from hgpo_jax.types import Params

# params, rows -> log-probs and entropy, each `[B, Q]`.
ScoreFn = Callable[[Params, types.Packed], scoring.Scores]
# What a loss reads: `types.Batch`, or what a critic's does.
BatchT = TypeVar('BatchT', bound=types.Batch | types.ValueBatch)
_Batch = TypeVar('_Batch', contravariant=True)
_Scores = TypeVar('_Scores', contravariant=True)
Scalars = dict[str, Array]


@flax.struct.dataclass
class Denominators:
  """What the means of one optimiser step divide by.

  Attributes:
    loss: `[]` float32, the count of the loss's aggregation.
    tokens: `[]` float32, reply tokens, for the token means that are logged.
  """

  loss: Array
  tokens: Array


class LossFn(Protocol[_Scores, _Batch]):
  """Scores of a micro-batch, `[N, R]` each -> its loss, and scalars to log.

  All of them are means that divide by the denominators of the whole mini-batch,
  so that those of its micro-batches add up, or maxima, named `..._max`.
  `aggregation` names what `Denominators.loss` counts. The batch is
  `types.Batch`, or `types.ValueBatch` where the scores are a critic's values.
  """

  @property
  def aggregation(self) -> str:
    """One of `losses.aggregate.AGGREGATES`."""
    ...

  def __call__(
    self, scores: _Scores, batch: _Batch, mask: Array, over: Denominators
  ) -> tuple[Array, Scalars]:
    """Returns the loss, and what is logged."""
    ...


@dataclasses.dataclass(frozen=True)
class PolicyLoss:
  """A surrogate, a KL to the reference, an entropy bonus.

  Attributes:
    surrogate: one of `losses.SURROGATES`, with its options.
    kl_coef: weight of the KL to the frozen reference.
    kl: estimator, one of `losses.kl.ESTIMATORS`.
    entropy_coef: weight of the entropy bonus.
    aggregation: one of `losses.aggregate.AGGREGATES`.
  """

  surrogate: Callable[..., policy.Surrogate] = policy.clipped_surrogate
  kl_coef: float = 0.01
  kl: str = 'k3'
  entropy_coef: float = 0.001
  aggregation: str = 'token-mean'

  def __call__(
    self,
    scores: scoring.Scores,
    batch: types.Batch,
    mask: Array,
    over: Denominators,
  ) -> tuple[Array, Scalars]:
    """Returns the loss, and what is logged."""

    def mean(values: Array) -> Array:
      how = aggregate.AGGREGATES[self.aggregation].mean
      return how(values, mask, over.loss)

    def token_mean(values: Array) -> Array:
      return aggregate.token_mean(values, mask, over.tokens)

    new, old = scores.log_probs, batch.old_log_probs
    surrogate = self.surrogate(new, old, batch.advantages, mask)
    to_reference = kl.ESTIMATORS[self.kl](new, batch.ref_log_probs)
    policy_loss = mean(surrogate.loss)
    loss = (
      policy_loss
      + self.kl_coef * mean(to_reference)
      - self.entropy_coef * mean(scores.entropy)
    )
    return loss, {
      'loss': loss,
      'policy_loss': policy_loss,
      'kl_ref': token_mean(kl.k3(new, batch.ref_log_probs)),
      # The tokens are the sampler's, so this is KL(old || new).
      'kl_old': token_mean(kl.k3(old, new)),
      'entropy': token_mean(scores.entropy),
      'clip_fraction': token_mean(surrogate.clipped),
      'ratio_error': token_mean(jnp.abs(jnp.expm1(new - old))),
      'ratio_max': jnp.exp(jnp.max(jnp.where(mask, jnp.abs(new - old), 0))),
    }


def make_policy_loss(config: Loss) -> PolicyLoss:
  """Builds the loss that an experiment's `loss` section describes."""
  return PolicyLoss(
    surrogate=functools.partial(SURROGATES[config.surrogate], **config.chosen),
    kl_coef=config.kl_coef,
    kl=config.kl,
    entropy_coef=config.entropy_coef,
    aggregation=config.aggregation,
  )


@dataclasses.dataclass(frozen=True)
class CloningLoss:
  """Behaviour cloning: the mean negative log-prob of the expert's tokens."""

  aggregation: ClassVar[str] = 'token-mean'

  def __call__(
    self,
    scores: scoring.Scores,
    batch: types.Batch,
    mask: Array,
    over: Denominators,
  ) -> tuple[Array, Scalars]:
    """Returns the loss, twice."""
    del batch
    nll = aggregate.token_mean(-scores.log_probs, mask, over.tokens)
    return nll, {'loss': nll}


def init_state(
  params: Params,
  optimizer: optax.GradientTransformation,
  frozen: Params | None = None,
) -> types.TrainState:
  """Starts with `params` to be trained, and `frozen` ones if there are any."""
  # Whether an array may move is a part of what is compiled. A step's results
  # may not, so a state that may would cost a second compilation.
  stay = functools.partial(
    jax.tree.map, lambda x: jax.device_put(x, x.sharding)
  )
  return types.TrainState(
    params=stay(params),
    opt_state=stay(optimizer.init(params)),
    step=stay(jnp.zeros((), jnp.int32)),
    frozen=frozen or {},
  )


def by_turn(values: Array, place: Array) -> Array:
  """Lays values of reply places out by turns; every row for itself.

  Args:
    values: `[B, Q]`, along packed rows.
    place: `[N, R]`, see `types.Batch`; N is a multiple of B.

  Returns: `[N, R]`, 0 on padding.
  """
  of_row = place.reshape(values.shape[0], -1)  # [B, W*R]
  by_row = jnp.take_along_axis(values, jnp.maximum(of_row, 0), axis=1)
  return jnp.where(of_row >= 0, by_row, 0).reshape(place.shape)


TrainStep = Callable[
  [types.TrainState, BatchT], tuple[types.TrainState, Scalars]
]
# Lays a new state out on the devices, under jit or not.
Placed = Callable[[types.TrainState], types.TrainState]


def make_train_step(
  score: Callable[[Params, types.Packed], _Scores],
  loss_fn: LossFn[_Scores, BatchT],
  optimizer: optax.GradientTransformation,
  placed: Placed = lambda state: state,
) -> TrainStep[BatchT]:
  """Builds the jitted update of one mini-batch `[M, ...]`.

  The gradients of its micro-batches are added; every mean divides by the count
  of the whole mini-batch, so how turns were packed changes nothing but time and
  memory. Micro-batches that hold padding alone are not computed. The old state
  is donated, but for its frozen params, which may be in use elsewhere, and its
  critic, which is passed on.

  Args:
    score: params, rows -> arrays `[B, Q]`: a `ScoreFn`, or a critic's values.
    loss_fn: what is made small; see `LossFn`.
    optimizer: optax's chain.
    placed: lays the new state out as the old one was, so that the next step
      needs no other program.
  """

  def loss_of(
    params: Params, frozen: Params, micro: BatchT, over: Denominators
  ) -> tuple[Array, Scalars]:
    scores = score(lora.combine(params, frozen), micro.rows)
    scores = jax.tree.map(lambda x: by_turn(x, micro.place), scores)
    return loss_fn(scores, micro, micro.place >= 0, over)

  @functools.partial(jax.jit, donate_argnums=0)
  def update(
    state: types.TrainState, frozen: Params, batch: BatchT
  ) -> tuple[types.TrainState, Scalars]:
    over = _denominators(loss_fn.aggregation, batch.place)

    def gradient(micro: BatchT) -> tuple[Params, Scalars]:
      grad = jax.grad(loss_of, has_aux=True)
      return grad(state.params, frozen, micro, over)

    grads, scalars = _over_micro_batches(gradient, batch)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    new_state = dataclasses.replace(
      state,
      params=optax.apply_updates(state.params, updates),
      opt_state=opt_state,
      step=state.step + 1,
    )
    return placed(new_state), {**scalars, 'grad_norm': optax.tree.norm(grads)}

  def train_step(
    state: types.TrainState, batch: BatchT
  ) -> tuple[types.TrainState, Scalars]:
    frozen, critic = state.frozen, state.critic
    moving = dataclasses.replace(state, frozen={}, critic=None)
    moving, scalars = update(moving, frozen, batch)
    return dataclasses.replace(moving, frozen=frozen, critic=critic), scalars

  return train_step


Scorer = Callable[[Params, types.Batch], Array]


def make_scorer(score: ScoreFn) -> Scorer:
  """Builds the jitted scoring of a mini-batch, in micro-batches too.

  Returns: (params, batch) -> log-probs `[M, N, R]`, 0 on padding.
  """
  return make_reader(lambda params, rows: score(params, rows).log_probs)


def make_reader(values: Callable[[Params, types.Packed], Array]) -> Scorer:
  """As `make_scorer`, of any function (params, rows) -> `[B, Q]`."""

  @jax.jit
  def read(params: Params, batch: types.Batch) -> Array:
    def put(i: Array, out: Array) -> Array:
      micro = _micro_batch(batch, i)
      table = values(params, micro.rows)
      return out.at[i].set(by_turn(table, micro.place))

    start = jnp.zeros(batch.place.shape, jnp.float32)
    table = jax.lax.fori_loop(0, _filled(batch), put, start)
    return constrain(table, None, None, None)  # all of it to every process

  return read


def _denominators(aggregation: str, place: Array) -> Denominators:
  """Counts of a whole mini-batch, from `place [M, N, R]`."""
  mask = place.reshape(-1, place.shape[-1]) >= 0
  return Denominators(
    loss=aggregate.AGGREGATES[aggregation].count(mask),
    tokens=aggregate.count_tokens(mask),
  )


def _over_micro_batches(
  fn: Callable[[BatchT], tuple[Params, Scalars]], batch: BatchT
) -> tuple[Params, Scalars]:
  """Joins fn(micro-batch) of every micro-batch that holds a turn.

  Gradients and scalars are added, in float32 at least; scalars whose name ends
  in `_max` are maxima.
  """

  def join(i: Array, total: tuple[Params, Scalars]) -> tuple[Params, Scalars]:
    grads, scalars = total
    more_grads, more = fn(_micro_batch(batch, i))
    return jax.tree.map(jnp.add, grads, more_grads), {
      n: (jnp.maximum if n.endswith('_max') else jnp.add)(x, more[n])
      for n, x in scalars.items()
    }

  def zeros(x: jax.ShapeDtypeStruct) -> Array:
    return jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))

  shapes = jax.eval_shape(lambda b: fn(_micro_batch(b, jnp.int32(0))), batch)
  start = jax.tree.map(zeros, shapes)
  return jax.lax.fori_loop(0, _filled(batch), join, start)


def _micro_batch(batch: BatchT, i: Array) -> BatchT:
  """The i-th of a mini-batch, its rows split over the devices of a mesh."""

  def take(x: Array) -> Array:
    x = jax.lax.dynamic_index_in_dim(x, i, keepdims=False)
    return constrain(x, 'rows', *[None] * (x.ndim - 1))

  return jax.tree.map(take, batch)


def _filled(batch: types.Batch | types.ValueBatch) -> Array:
  """How many micro-batches hold a turn; they come first."""
  held = jnp.any(batch.place >= 0, axis=(1, 2))
  return jnp.sum(held, dtype=jnp.int32)
