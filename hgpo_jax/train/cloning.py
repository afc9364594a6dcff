"""Behaviour cloning from expert episodes, cached on disk."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jax import Array

from hgpo_jax import types
from hgpo_jax.rollout.codec import Codec
from hgpo_jax.rollout.environments import AgentLayer
from hgpo_jax.train import batching, checkpoint, packing, update
from hgpo_jax.train import optimizer as optimizer_lib
from hgpo_jax.types import Params

# To be raised when equal settings no longer give an equal warm start.
_VERSION = 2

# One turn of an expert's episode: user message, replies that constrained
# decoding would allow, the reply to clone.
Example = tuple[str, list[str], str]


def examples(episode: Sequence[Any], agent: AgentLayer) -> list[Example]:
  """Writes an expert's episode as prompts and replies of the policy.

  The reply is the expert's advice, also where another move was played; the
  history of later turns holds what was played.

  Args:
    episode: records with `step`, `action` (played) and `advice`.
    agent: the words.
  """
  task = agent.task(episode[0].step.observation)
  history: list[tuple[str, str]] = []
  result: list[Example] = []
  for shown in episode:
    result.append(
      (
        agent.message(task, history, shown.step),
        list(agent.replies(shown.step)),
        agent.written(shown.advice),
      )
    )
    history.append((shown.step.observation, shown.action))
  return result


def texts(examples: Iterable[Example]) -> Iterable[str]:
  """Yields the messages, allowed replies and replies of examples."""
  for message, replies, reply in examples:
    yield message
    yield from replies
    yield reply


def to_turns(
  examples: Sequence[Example], codec: Codec, max_reply: int
) -> list[types.Turn]:
  """Encodes the examples whose reply fits into `max_reply`."""
  kept = [
    (message, replies, tokens)
    for message, replies, reply in examples
    if len(tokens := codec.replies([reply])[0]) <= max_reply
  ]
  prompts = codec.prompts([message for message, _, _ in kept])
  return [
    types.Turn(
      prompt=np.asarray(prompt, np.int32),
      reply=np.asarray(tokens, np.int32),
      log_probs=np.zeros(0, np.float32),
      choices=codec.choices(replies),
      observation='',
      action='',
      valid=True,
      reward=0.0,
    )
    for prompt, (_, replies, tokens) in zip(prompts, kept, strict=True)
  ]


def clone(
  params: Params,
  turns: Sequence[types.Turn],
  score: update.ScoreFn,
  *,
  shapes: packing.Shapes,
  epochs: int,
  minibatch: int,
  learning_rate: float,
  seed: int,
  report: Callable[[int, int, Array], None],
  placed: update.Placed = lambda state: state,
) -> Params:
  """Trains params to give the experts' replies.

  Args:
    params: where to start; donated.
    turns: the examples.
    score: log-probs of replies.
    shapes: what turns are packed into.
    epochs: passes over the turns.
    minibatch: turns per optimiser step.
    learning_rate: the peak; warmed up over 5 % of the steps, then a cosine.
    seed: of the order of turns.
    report: called with (step, steps, loss) after every step.
    placed: places a state on the devices, under jit or not.

  Returns: the trained params.
  """
  per_epoch = -(-len(turns) // minibatch)
  steps = per_epoch * epochs
  optimizer = optimizer_lib.make_optimizer(
    learning_rate=learning_rate,
    warmup_steps=steps // 20,
    decay_steps=steps - steps // 20,
    weight_decay=0.01,
    clip_norm=1.0,
    b1=0.9,
    b2=0.98,
  )
  step_fn = update.make_train_step(
    score, update.CloningLoss(), optimizer, placed
  )
  state = placed(update.init_state(params, optimizer))
  flat = packing.flatten(turns, shapes)
  micro = shapes.micro_batches(min(minibatch, len(turns)))
  done = 0
  for epoch in range(epochs):
    for index in batching.minibatches(len(turns), minibatch, (seed, epoch)):
      batch = packing.pack(flat, index, shapes, micro).unlabelled()
      state, scalars = step_fn(state, batch)
      done += 1
      report(done, steps, scalars['loss'])
  return state.params


def cache_folder(
  root: pathlib.Path, settings: Mapping[str, Any]
) -> pathlib.Path:
  """Returns the folder of the warm start with these `settings` (JSON)."""
  text = json.dumps([_VERSION, settings], sort_keys=True)
  return root / hashlib.sha256(text.encode()).hexdigest()[:16]


def save(folder: pathlib.Path, params: Params) -> None:
  """Caches params, atomically."""
  store = checkpoint.Checkpoints(folder)
  store.save(0, params, {})
  store.close()
