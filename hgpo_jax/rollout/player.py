"""A policy's seat at the environments: tasks in, trajectories out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from hgpo_jax import types
from hgpo_jax.policy.generate import Generator
from hgpo_jax.policy.sampling import Sampling
from hgpo_jax.rollout import collect


class Player:
  """Plays tasks with whatever params it is given."""

  def __init__(
    self,
    step_envs: collect.StepEnvs,
    agent: collect.AgentLayer,
    codec: collect.Codec,
    make_generator: Callable[[Sampling], Generator],
    rows: int,
  ):
    """Joins the parts of a rollout.

    Args:
      step_envs: the environments, with at least `rows` slots.
      agent: the words.
      codec: the tokenizer's faces.
      make_generator: builds the generator of one way of sampling; asked once
        for each.
      rows: episodes played at once.
    """
    self.agent, self.codec = agent, codec
    self._step_envs, self._rows = step_envs, rows
    self._make_generator = make_generator
    self._generators: dict[Sampling, Generator] = {}

  def play(
    self, params: Any, tasks: Sequence[Any], key: jax.Array, sampling: Sampling
  ) -> list[types.Trajectory]:
    """Plays one episode per task; see `collect`.

    Args:
      params: the policy.
      tasks: start states, any number.
      key: of this call; each batch of episodes folds in its place.
      sampling: how replies are drawn.
    """
    if sampling not in self._generators:
      self._generators[sampling] = self._make_generator(sampling)
    generator = self._generators[sampling]

    def generate(prompts, row_keys, choices):
      limited = choices if any(choices) else None
      return generator(params, prompts, row_keys, limited)

    played: list[types.Trajectory] = []
    for start in range(0, len(tasks), self._rows):
      played += collect.collect(
        self._step_envs,
        self.agent,
        self.codec,
        generate,
        tasks[start : start + self._rows],
        jax.random.fold_in(key, start),
      )
    return played

  def compilations(self) -> str:
    """Says how often generation was compiled, and how often it can be.

    Ways of sampling that differ in temperature alone share compilations.
    """
    shapes: dict[tuple, set] = {}
    bound: dict[tuple, int] = {}
    for how, generator in self._generators.items():
      kind = (how.temperature > 0, how.top_k, how.top_p)
      shapes.setdefault(kind, set()).update(generator.shapes)
      bound[kind] = generator.max_compilations
    count = sum(map(len, shapes.values()))
    return f'compiled {count} shapes of generation, of {sum(bound.values())}'
