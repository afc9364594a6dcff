"""A policy's seat at the environments: tasks in, trajectories out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from hgpo_jax import types
from hgpo_jax.policy import qwen2
from hgpo_jax.policy.generate import Plan
from hgpo_jax.policy.sampling import Sampling
from hgpo_jax.policy.slots import Counts, Slots
from hgpo_jax.rollout import collect


class Player:
  """Plays tasks with whatever params it is given.

  Attributes:
    counts: what generation did so far.
  """

  def __init__(
    self,
    step_envs: collect.StepEnvs,
    agent: collect.AgentLayer,
    codec: collect.Codec,
    model: qwen2.Config,
    plan: Plan,
    schedule: collect.Schedule,
  ):
    """Joins the parts of a rollout.

    Args:
      step_envs: the environments, with a slot for each episode of `schedule`.
      agent: the words.
      codec: the tokenizer's faces.
      model: the policy's size.
      plan: the shapes of its generation.
      schedule: who waits for whom.
    """
    self.agent, self.codec, self.counts = agent, codec, Counts()
    self._step_envs, self._schedule = step_envs, schedule
    self._model, self._plan = model, plan

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
    slots = Slots(self._model, self._plan, sampling, params, key, self.counts)
    return collect.collect(
      self._step_envs,
      self.agent,
      self.codec,
      slots,
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
    bound = self._plan.max_shapes(methods)
    return f'compiled {len(shapes)} shapes of generation, of {bound}'
