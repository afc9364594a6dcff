"""Plays episodes; environments, words and policy are given as callables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from hgpo_jax import types


class Step(Protocol):
  """What an environment answers (the fields that a rollout reads)."""

  @property
  def observation(self) -> str: ...

  @property
  def admissible(self) -> tuple[str, ...]: ...

  @property
  def reward(self) -> float: ...

  @property
  def truncated(self) -> bool: ...

  @property
  def won(self) -> bool: ...

  @property
  def done(self) -> bool: ...


class Completions(Protocol):
  """What a policy answers: `[B, R]` tokens and log-probs, `[B]` lengths."""

  @property
  def tokens(self) -> np.ndarray: ...

  @property
  def log_probs(self) -> np.ndarray: ...

  @property
  def lengths(self) -> np.ndarray: ...


class AgentLayer(Protocol):
  """The words between world and policy, for one world and one template."""

  def task(self, first_observation: str, /) -> str: ...

  def message(
    self, task: str, history: Sequence[tuple[str, str]], step: Any
  ) -> str: ...

  def replies(self, step: Any) -> Sequence[str]:
    """The replies that constrained decoding may give; () leaves it free."""
    ...

  def written(self, action: str) -> str:
    """The reply that plays an action."""
    ...

  def project(self, reply: str, step: Any) -> tuple[str, bool]: ...


class Codec(Protocol):
  """Text to token ids and back."""

  def prompts(self, messages: Sequence[str]) -> list[list[int]]: ...

  def choices(self, texts: Sequence[str]) -> tuple[tuple[int, ...], ...]: ...

  def replies(self, texts: Sequence[str]) -> list[tuple[int, ...]]: ...

  def text(self, tokens: Sequence[int]) -> str: ...


StepEnvs = Callable[[Mapping[int, Any]], Mapping[int, Step]]
# prompts, row keys `[B, 2]` uint32, choices -> completions
Generate = Callable[
  [Sequence[Sequence[int]], np.ndarray, Sequence[Sequence[Sequence[int]]]],
  Completions,
]


@dataclasses.dataclass
class _Episode:
  task: Any
  goal: str
  step: Step
  history: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  turns: list[types.Turn] = dataclasses.field(default_factory=list)


@jax.jit
def turn_keys(
  key: jax.Array, episodes: jax.Array, turn: jax.Array
) -> jax.Array:
  """Derives one sampling key per episode and turn.

  Args:
    key: the rollout's key, used for nothing else.
    episodes: `[B]` int32 episode numbers.
    turn: `[]` int32, 0-based.

  Returns: `[B, 2]` uint32 key data.
  """
  fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
  keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, episodes)
  return jax.random.key_data(fold(keys, turn))


def collect(
  step_envs: StepEnvs,
  agent: AgentLayer,
  codec: Codec,
  generate: Generate,
  tasks: Sequence[Any],
  key: jax.Array,
) -> list[types.Trajectory]:
  """Plays one episode per task to its end, all in step.

  What an episode does depends on its task, its place in `tasks` and `key`
  alone, not on the other episodes.

  Args:
    step_envs: slot -> task or action, to slot -> step.
    agent: messages out, actions in.
    codec: the tokenizer's faces.
    generate: the policy.
    tasks: B start states; equal ones form a group.
    key: the rollout's key.

  Returns: B trajectories, in the order of `tasks`.
  """
  numbers = np.arange(len(tasks), dtype=np.int32)
  starts = step_envs(dict(enumerate(tasks)))
  episodes = [
    _Episode(task, agent.task(starts[i].observation), starts[i])
    for i, task in enumerate(tasks)
  ]
  active = list(range(len(tasks)))
  turn = 0
  while active:
    keys = np.asarray(turn_keys(key, numbers, np.int32(turn)))[active]
    actions = _reply(agent, codec, generate, episodes, active, keys)
    answers = step_envs(actions)
    for slot in active:
      _advance(episodes[slot], answers[slot])
    active = [slot for slot in active if not episodes[slot].step.done]
    turn += 1
  return [
    types.Trajectory(e.task, tuple(e.turns), e.step.won, e.step.truncated)
    for e in episodes
  ]


def _reply(
  agent: AgentLayer,
  codec: Codec,
  generate: Generate,
  episodes: Sequence[_Episode],
  active: Sequence[int],
  keys: np.ndarray,
) -> dict[int, str]:
  """Samples one reply per active episode and notes the turn; slot -> action."""
  playing = [episodes[slot] for slot in active]
  prompts = codec.prompts(
    [agent.message(e.goal, e.history, e.step) for e in playing]
  )
  choices = [codec.choices(agent.replies(e.step)) for e in playing]
  done = generate(prompts, keys, choices)
  actions = {}
  for row, (slot, episode) in enumerate(zip(active, playing, strict=True)):
    length = int(done.lengths[row])
    reply = done.tokens[row, :length]
    action, valid = agent.project(codec.text(reply.tolist()), episode.step)
    episode.turns.append(
      types.Turn(
        prompt=np.asarray(prompts[row], np.int32),
        reply=reply,
        log_probs=done.log_probs[row, :length],
        choices=choices[row],
        observation=episode.step.observation,
        action=action,
        valid=valid,
        reward=0.0,
      )
    )
    actions[slot] = action
  return actions


def _advance(episode: _Episode, step: Step) -> None:
  """Gives the last turn its reward and moves the episode on."""
  last = episode.turns[-1]
  episode.turns[-1] = dataclasses.replace(last, reward=float(step.reward))
  episode.history.append((last.observation, last.action))
  episode.step = step
