"""TrainState, Batch -> TrainState, metrics; the project's only gradient."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from hgpo_jax import types
from hgpo_jax.losses import aggregate, kl, policy

# params, tokens, valid, choices -> log-probs and entropy, each `[B, R]`.
ScoreFn = Callable[[Any, Array, Array, Array], Any]


@flax.struct.dataclass
class Denominators:
  """What the means of one optimiser step divide by.

  Attributes:
    loss: `[]` float32, the count of the loss's aggregation.
    tokens: `[]` float32, reply tokens, for the token means that are logged.
  """

  loss: Array
  tokens: Array


class LossFn(Protocol):
  """Scores of a micro-batch -> its loss, and scalars to log.

  All of them are means that divide by the denominators of the whole mini-batch,
  so that those of its micro-batches add up. `aggregation` names what
  `Denominators.loss` counts.
  """

  @property
  def aggregation(self) -> str: ...

  def __call__(
    self, scores: Any, batch: types.Batch, mask: Array, over: Denominators
  ) -> tuple[Array, dict[str, Array]]: ...


@dataclasses.dataclass(frozen=True)
class PolicyLoss:
  """The clipped surrogate, a KL to the reference, an entropy bonus.

  Attributes:
    clip_low, clip_high: the ratio is clipped to [1 - low, 1 + high].
    dual_clip: bound c of the loss where the advantage is negative.
    kl_coef: weight of the KL to the frozen reference.
    kl: estimator, one of `losses.kl.ESTIMATORS`.
    entropy_coef: weight of the entropy bonus.
    aggregation: one of `losses.aggregate.AGGREGATES`.
  """

  clip_low: float = 0.2
  clip_high: float = 0.2
  dual_clip: float = 3.0
  kl_coef: float = 0.01
  kl: str = 'k3'
  entropy_coef: float = 0.001
  aggregation: str = 'token-mean'

  def __call__(
    self, scores: Any, batch: types.Batch, mask: Array, over: Denominators
  ) -> tuple[Array, dict[str, Array]]:
    def mean(values: Array) -> Array:
      how = aggregate.AGGREGATES[self.aggregation].mean
      return how(values, mask, over.loss)

    def token_mean(values: Array) -> Array:
      return aggregate.token_mean(values, mask, over.tokens)

    new, old = scores.log_probs, batch.old_log_probs
    surrogate = policy.clipped_surrogate(
      new,
      old,
      batch.advantages,
      clip_low=self.clip_low,
      clip_high=self.clip_high,
      dual_clip=self.dual_clip,
    )
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
      'kl_old': token_mean(kl.k3(new, old)),
      'entropy': token_mean(scores.entropy),
      'clip_fraction': token_mean(surrogate.clipped),
      'ratio_error': token_mean(jnp.abs(jnp.expm1(new - old))),
    }


@dataclasses.dataclass(frozen=True)
class CloningLoss:
  """Behaviour cloning: the mean negative log-prob of the expert's tokens."""

  aggregation: ClassVar[str] = 'token-mean'

  def __call__(
    self, scores: Any, batch: types.Batch, mask: Array, over: Denominators
  ) -> tuple[Array, dict[str, Array]]:
    del batch
    nll = aggregate.token_mean(-scores.log_probs, mask, over.tokens)
    return nll, {'loss': nll}


def make_optimizer(
  *,
  learning_rate: float,
  warmup_steps: int,
  decay_steps: int,
  weight_decay: float,
  clip_norm: float,
  b1: float,
  b2: float,
) -> optax.GradientTransformation:
  """AdamW behind a global-norm clip; linear warm-up, then cosine or constant.

  Args:
    learning_rate: the peak.
    warmup_steps: updates from 0 to the peak.
    decay_steps: updates until a cosine reaches a tenth; 0 stays at the peak.
    weight_decay: on matrices; norms' scales and biases are left alone.
    clip_norm: of the whole gradient.
    b1, b2: Adam's decay rates.
  """
  after = (
    optax.cosine_decay_schedule(learning_rate, decay_steps, alpha=0.1)
    if decay_steps
    else optax.constant_schedule(learning_rate)
  )
  schedule = optax.join_schedules(
    [
      optax.linear_schedule(
        learning_rate / (warmup_steps + 1), learning_rate, warmup_steps
      ),
      after,
    ],
    [warmup_steps],
  )
  return optax.chain(
    optax.clip_by_global_norm(clip_norm),
    optax.adamw(
      schedule, b1=b1, b2=b2, weight_decay=weight_decay, mask=decay_mask
    ),
  )


def decay_mask(params: Any) -> Any:
  """True where weight decay applies: everything but norms and biases."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: not re.search('bias|norm', jax.tree_util.keystr(path)),
    params,
  )


def init_state(
  params: Any, optimizer: optax.GradientTransformation
) -> types.TrainState:
  return types.TrainState(
    params=params,
    opt_state=optimizer.init(params),
    step=jnp.zeros((), jnp.int32),
  )


def reply_mask(batch: types.Batch) -> Array:
  """`[N, R]` bool, True on reply tokens of real rows."""
  size = batch.old_log_probs.shape[-1]
  return batch.valid[..., -size:] & batch.mask[..., None]


Batches = tuple[types.Batch, ...]  # one per prompt length
TrainStep = Callable[
  [types.TrainState, Batches], tuple[types.TrainState, dict[str, Array]]
]


def make_train_step(
  score: ScoreFn,
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  micro_rows: int,
) -> TrainStep:
  """Builds the jitted update of one mini-batch; the old state is donated.

  A mini-batch is a tuple of batches, one per prompt length. Each is cut into
  micro-batches of `micro_rows` rows whose gradients are added; every mean
  divides by the count of the whole mini-batch, so neither cut changes anything
  but time and memory. Micro-batches that hold padding alone are not computed.

  Args:
    score: log-probs and entropy of the replies.
    loss_fn: what is made small; see `LossFn`.
    optimizer: optax's chain.
    micro_rows: rows per micro-batch; divides the rows of each batch.
  """
  count = aggregate.AGGREGATES[loss_fn.aggregation].count

  def loss_of(
    params: Any, micro: types.Batch, over: Denominators
  ) -> tuple[Array, dict[str, Array]]:
    scores = score(params, micro.tokens, micro.valid, micro.choices)
    return loss_fn(scores, micro, reply_mask(micro), over)

  @functools.partial(jax.jit, donate_argnums=0)
  def train_step(state, batches):
    masks = [reply_mask(batch) for batch in batches]
    over = Denominators(
      loss=sum(count(mask) for mask in masks),
      tokens=sum(aggregate.count_tokens(mask) for mask in masks),
    )

    def gradient(micro: types.Batch) -> Any:
      return jax.grad(loss_of, has_aux=True)(state.params, micro, over)

    first = jax.tree.map(lambda x: x[:micro_rows], batches[0])
    total = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, first)
    )
    for batch in batches:
      total = _sum_over_micro_batches(gradient, batch, micro_rows, total)
    grads, scalars = total
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    new_state = types.TrainState(
      params=optax.apply_updates(state.params, updates),
      opt_state=opt_state,
      step=state.step + 1,
    )
    return new_state, {**scalars, 'grad_norm': optax.tree.norm(grads)}

  return train_step


def make_scorer(
  score: ScoreFn, micro_rows: int
) -> Callable[[Any, Batches], list[Array]]:
  """Builds the jitted scoring of a mini-batch, in micro-batches too.

  Returns: (params, batches) -> log-probs `[rows, R]` of each batch.
  """

  @jax.jit
  def score_batches(params, batches):
    def log_probs(batch: types.Batch) -> Array:
      def put(out: Array, start: Array) -> Array:
        micro = _micro_batch(batch, start, micro_rows)
        scores = score(params, micro.tokens, micro.valid, micro.choices)
        return jax.lax.dynamic_update_slice_in_dim(
          out, scores.log_probs, start, 0
        )

      return jax.lax.fori_loop(
        0,
        _filled(batch, micro_rows),
        lambda i, out: put(out, i * micro_rows),
        jnp.zeros_like(batch.old_log_probs),
      )

    return [log_probs(batch) for batch in batches]

  return score_batches


def _sum_over_micro_batches(
  fn: Callable[[types.Batch], Any], batch: types.Batch, rows: int, total: Any
) -> Any:
  """Adds fn(micro-batch) of every micro-batch that holds a row to `total`."""

  def add(i: Array, total: Any) -> Any:
    return jax.tree.map(jnp.add, total, fn(_micro_batch(batch, i * rows, rows)))

  return jax.lax.fori_loop(0, _filled(batch, rows), add, total)


def _micro_batch(batch: types.Batch, start: Array, rows: int) -> types.Batch:
  return jax.tree.map(
    lambda x: jax.lax.dynamic_slice_in_dim(x, start, rows), batch
  )


def _filled(batch: types.Batch, rows: int) -> Array:
  """How many micro-batches hold a row; the rows come first."""
  if batch.mask.shape[0] % rows:
    raise ValueError(
      f'a batch of {batch.mask.shape[0]} places in micro-batches of {rows}: '
      'expected a multiple.'
    )
  return -(-jnp.sum(batch.mask, dtype=jnp.int32) // rows)
