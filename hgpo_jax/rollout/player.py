"""A policy's environments at the environments: tasks in, trajectories out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from hgpo_jax import types
from hgpo_jax.model.interface import Model
from hgpo_jax.rollout import episodes
from hgpo_jax.sampler.batcher import Batcher, Counts
from hgpo_jax.sampler.decode import DecodeShapes
from hgpo_jax.sampler.sampling import Sampling


class Player:
  """Plays tasks with whatever params it is given.

  Attributes:
    counts: what generation did so far.
  """

  def __init__(
    self,
    step_envs: episodes.StepEnvs,
    agent: episodes.AgentLayer,
    codec: episodes.Codec,
    model: Model,
    shapes: DecodeShapes,
    schedule: episodes.Schedule,
  ):
    """Joins the parts of a rollout.

    Args:
      step_envs: the environments, with a slot for each episode of `schedule`.
      agent: the words.
      codec: the tokenizer's faces.
      model: the policy's.
      shapes: of its generation.
      schedule: who waits for whom.
    """
    self.agent, self.codec, self.counts = agent, codec, Counts()
    self._step_envs, self._schedule = step_envs, schedule
    self._model, self._shapes = model, shapes

  def play(
    self,
    params: Any,
    tasks: Sequence[Any],
    key: jax.Array,
    sampling: Sampling,
    first: int = 0,
  ) -> list[types.Trajectory]:
    """Plays one episode per task; see `collect`.

    Args:
      params: the policy.
      tasks: start states, any number.
      key: of this call.
      sampling: how replies are drawn.
      first: number of the first episode; keys are made of the numbers.
    """
    batcher = Batcher(
      self._model, self._shapes, sampling, params, key, self.counts
    )
    return episodes.collect(
      self._step_envs,
      self.agent,
      self.codec,
      batcher,
      tasks,
      self._schedule,
      first,
    )

  def compilations(self) -> str:
    """Says how often prefill and decode were compiled, and how often at most.

    Ways of sampling that differ in temperature alone share compilations.
    """
    shapes = self.counts.shapes
    methods = len({how for kind, _, how in shapes if kind == 'decode'})
    bound = self._shapes.max_shapes(methods)
    return f'compiled {len(shapes)} shapes of generation, of {bound}'
