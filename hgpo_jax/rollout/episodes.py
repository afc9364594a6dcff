"""Plays episodes; environments, words and policy are given as callables.

An episode whose reply is finished goes to its environment and comes back with
its next prompt while others decode, so that neither a long reply nor a slow
environment holds up the rest.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from hgpo_jax import types
from hgpo_jax.rollout.environments import EnvironmentPool, Step, StepEnvs
from hgpo_jax.sampler.batcher import Reply, RequestId


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


class Policy(Protocol):
  """What answers prompts; see `hgpo_jax/sampler/batcher.py`."""

  @property
  def busy(self) -> bool: ...

  def submit(
    self,
    request_id: RequestId,
    prompt: Sequence[int],
    choices: Sequence[Sequence[int]] = (),
  ) -> None: ...

  def start(self) -> None: ...

  def finished(self) -> list[Reply]: ...


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Who waits for whom; it changes when things happen, not what happens.

  Attributes:
    episodes: how many are played at once, at least 1, each in an environment of
      its own.
    workers: threads that call the environments, each for one episode at a
      time; 0 calls them right here, for all episodes that are ready.
    lockstep: whether all episodes wait for each other in every turn: the slow,
      simple way, to compare with.
  """

  episodes: int = 128
  workers: int = 0
  lockstep: bool = False

  def __post_init__(self) -> None:
    if self.episodes < 1 or self.workers < 0:
      raise ValueError(
        f'episodes={self.episodes}, workers={self.workers}: expected at least '
        '1 and at least 0.'
      )


@dataclasses.dataclass
class _Episode:
  number: int
  task: Any
  goal: str
  step: Step
  choices: tuple[tuple[int, ...], ...] = ()
  history: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  turns: list[types.Turn] = dataclasses.field(default_factory=list)


def collect(
  step_envs: StepEnvs,
  agent: AgentLayer,
  codec: Codec,
  policy: Policy,
  tasks: Sequence[Any],
  schedule: Schedule,
  first: int = 0,
) -> list[types.Trajectory]:
  """Plays one episode per task to its end.

  What an episode does depends on its task, its number and the policy's key, not
  on the other episodes, nor on the schedule.

  Args:
    step_envs: slot -> task or action, to slot -> step; with workers it must
      bear several calls at once, of different slots.
    agent: messages out, actions in.
    codec: the tokenizer's faces.
    policy: free of requests.
    tasks: start states; equal ones form a group.
    schedule: who waits for whom.
    first: number of the first task's episode; the others' follow.

  Returns: a trajectory per task, in the order of `tasks`.
  Raises: what an environment raises, at once.
  """
  with EnvironmentPool(step_envs, schedule.workers) as envs:
    rollout = _Rollout(envs, agent, codec, policy, tasks, schedule, first)
    while rollout.unfinished:
      rollout.turn()
  return [rollout.trajectories[first + i] for i in range(len(tasks))]


class _Rollout:
  """The episodes that are being played, by the slot of their environment."""

  def __init__(
    self,
    envs: EnvironmentPool,
    agent: AgentLayer,
    codec: Codec,
    policy: Policy,
    tasks: Sequence[Any],
    schedule: Schedule,
    first: int,
  ):
    self._envs, self._agent, self._codec = envs, agent, codec
    self._policy, self._lockstep = policy, schedule.lockstep
    self.trajectories: dict[int, types.Trajectory] = {}
    self.unfinished = len(tasks)
    self._queue = collections.deque(enumerate(tasks, first))
    self._starting: dict[int, tuple[int, Any]] = {}  # slot -> number and task
    self._playing: dict[int, _Episode] = {}
    self._slots: dict[int, int] = {}  # episode's number -> slot
    self._ready: list[_Episode] = []  # know what they see, not asked yet
    self._replies: list[Reply] = []  # said, not played yet
    at_once = min(schedule.episodes, len(tasks))
    self._later = first + at_once  # number of the first that starts later
    for slot in range(at_once):
      self._next_task(slot)

  def turn(self) -> None:
    """Decodes a chunk, and meanwhile plays what was said before it."""
    self._policy.start()
    if not (self._lockstep and self._policy.busy):
      self._play_replies()
    for slot, step in self._envs.answers(self._least_answers()).items():
      self._hear(slot, step)
    if not (self._lockstep and self._envs.in_flight):
      self._ask()
    self._replies += self._policy.finished()

  def _least_answers(self) -> int:
    """How many environments to wait for: none while there is other work."""
    if self._lockstep:
      return self._envs.in_flight
    return 0 if self._policy.busy else 1

  def _next_task(self, slot: int) -> None:
    """Starts the next episode, if there is one, in a free environment."""
    if self._queue:
      self._starting[slot] = number, task = self._queue.popleft()
      self._slots[number] = slot
      self._envs.send({slot: task})

  def _hear(self, slot: int, step: Step) -> None:
    """Takes an environment's answer to a task or to an action."""
    if slot in self._starting:
      number, task = self._starting.pop(slot)
      goal = self._agent.task(step.observation)
      self._playing[slot] = _Episode(number, task, goal, step)
    else:
      _advance(self._playing[slot], step)
    if step.done:
      self._end(slot)
    else:
      self._ready.append(self._playing[slot])

  def _end(self, slot: int) -> None:
    episode = self._playing.pop(slot)
    self.trajectories[episode.number] = types.Trajectory(
      episode.task,
      tuple(episode.turns),
      episode.step.won,
      episode.step.truncated,
      episode.step.parts,
    )
    self.unfinished -= 1
    self._next_task(slot)

  def _ask(self) -> None:
    """Gives the policy the prompts of all episodes that are ready.

    Of episodes that start together, a first prompt waits for the others of its
    group: they are equal, and read once only if they come at the same time.
    """
    starting = {t for n, t in self._starting.values() if n < self._later}
    ready, self._ready = self._ready, []
    if starting:
      self._ready = [e for e in ready if not e.turns and e.task in starting]
      ready = [e for e in ready if e.turns or e.task not in starting]
    agent, codec = self._agent, self._codec
    prompts = codec.prompts(
      [agent.message(e.goal, e.history, e.step) for e in ready]
    )
    for episode, prompt in zip(ready, prompts, strict=True):
      episode.choices = codec.choices(agent.replies(episode.step))
      request_id = RequestId(episode.number, len(episode.turns))
      self._policy.submit(request_id, prompt, episode.choices)

  def _play_replies(self) -> None:
    """Notes the turns that were said, and plays them."""
    replies, self._replies = self._replies, []
    actions = {}
    for reply in replies:
      slot = self._slots[reply.request_id.episode]
      episode = self._playing[slot]
      text = self._codec.text(reply.tokens.tolist())
      action, valid = self._agent.project(text, episode.step)
      episode.turns.append(_turn(episode, reply, action, valid))
      actions[slot] = action
    self._envs.send(actions)


def _turn(
  episode: _Episode, reply: Reply, action: str, valid: bool
) -> types.Turn:
  """Notes what was read and said as the very ids; the reward comes later."""
  return types.Turn(
    prompt=reply.prompt,
    reply=reply.tokens,
    log_probs=reply.log_probs,
    choices=episode.choices,
    observation=episode.step.observation,
    action=action,
    valid=valid,
    reward=0.0,
  )


def _advance(episode: _Episode, step: Step) -> None:
  """Gives the last turn its reward and moves the episode on."""
  last = episode.turns[-1]
  episode.turns[-1] = dataclasses.replace(last, reward=float(step.reward))
  episode.history.append((last.observation, last.action))
  episode.step = step
