"""Plays episodes: environments, words and a batcher in, trajectories out.

An episode whose reply is finished goes to its environment and comes back with
its next prompt while others decode, so that neither a long reply nor a slow
environment delays the others.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Hashable, Sequence

from hgpo_jax import types
from hgpo_jax.rollout.codec import Codec
from hgpo_jax.rollout.environments import (
  AgentLayer,
  EnvironmentPool,
  Step,
  StepEnvs,
)
from hgpo_jax.sampler.batcher import Batcher, Reply, RequestId


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Who waits for whom; it changes when things happen, not what happens.

  Attributes:
    episodes: how many are played at once, at least 1, each in an environment of
      its own.
    workers: threads that call the environments, each for one episode at a
      time; 0 calls them in this thread, for all episodes that are ready.
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
  """An episode that is being played; `number` is its own in the batch."""

  number: int
  task: Hashable
  goal: str
  step: Step
  choices: tuple[tuple[int, ...], ...] = ()
  history: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  turns: list[types.Turn] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Collector:
  """Plays episodes of one world in one way.

  Attributes:
    step_envs: the environments; with workers several threads call it at the
      same time, for different environments.
    agent: messages out, actions in.
    codec: text to token ids and back.
    schedule: who waits for whom.
    check: called before every round of environment calls; may raise.
  """

  step_envs: StepEnvs
  agent: AgentLayer
  codec: Codec
  schedule: Schedule
  check: Callable[[], None] = lambda: None

  def collect(
    self, batcher: Batcher, tasks: Sequence[Hashable], first: int = 0
  ) -> list[types.Trajectory]:
    """Plays one episode per task to its end.

    What happens in an episode depends on its task, its number and the batcher's
    key; not on the other episodes, nor on the schedule.

    Args:
      batcher: the policy; free of requests.
      tasks: start states; equal ones form a group.
      first: number of the first task's episode; the others follow it.

    Returns: a trajectory per task, in the order of `tasks`.
    Raises: what an environment or `check` raises, at once.
    """
    lockstep = self.schedule.lockstep
    pool = EnvironmentPool(self.step_envs, self.schedule.workers)
    with contextlib.closing(pool):
      rollout = _Rollout(self, pool, batcher, tasks, first)
      while len(rollout.trajectories) < len(tasks):
        self.check()
        batcher.start()  # decodes while the environments play
        if not (lockstep and batcher.busy):
          rollout.send_actions()
        for env, step in pool.receive(rollout.least_steps()).items():
          rollout.observe(env, step)
        if not (lockstep and pool.in_flight):
          rollout.submit_prompts()
        rollout.replies += batcher.finished()
    return [rollout.trajectories[first + i] for i in range(len(tasks))]


class _Rollout:
  """The state of all episodes, by the number of their environment."""

  def __init__(
    self,
    collector: Collector,
    pool: EnvironmentPool,
    batcher: Batcher,
    tasks: Sequence[Hashable],
    first: int,
  ):
    self._agent, self._codec = collector.agent, collector.codec
    self._lockstep = collector.schedule.lockstep
    self._pool, self._batcher = pool, batcher
    self.trajectories: dict[int, types.Trajectory] = {}  # by episode
    self.replies: list[Reply] = []  # decoded, not sent to an environment yet
    self._queue = collections.deque(enumerate(tasks, first))
    # env -> episode and task
    self._starting: dict[int, tuple[int, Hashable]] = {}
    self._playing: dict[int, _Episode] = {}
    self._env_of: dict[int, int] = {}  # by episode
    self._ready: list[_Episode] = []  # have a step, no prompt submitted yet
    at_once = min(collector.schedule.episodes, len(tasks))
    self._later = first + at_once  # number of the first that starts later
    for env in range(at_once):
      self._start_next(env)

  def least_steps(self) -> int:
    """How many environments to wait for: none while there is other work."""
    if self._lockstep:
      return self._pool.in_flight
    return 0 if self._batcher.busy else 1

  def send_actions(self) -> None:
    """Records the turns of the new replies, and plays their actions."""
    replies, self.replies = self.replies, []
    actions = {}
    for reply in replies:
      env = self._env_of[reply.request_id.episode]
      episode = self._playing[env]
      text = self._codec.text(reply.tokens.tolist())
      action, valid = self._agent.project(text, episode.step)
      episode.turns.append(_turn(episode, reply, action, valid))
      actions[env] = action
    self._pool.send(actions)

  def observe(self, env: int, step: Step) -> None:
    """Takes an environment's step after a task or an action."""
    if env in self._starting:
      number, task = self._starting.pop(env)
      goal = self._agent.task(step.observation)
      self._playing[env] = _Episode(number, task, goal, step)
    else:
      _advance(self._playing[env], step)
    if step.done:
      self._end(env)
    else:
      self._ready.append(self._playing[env])

  def submit_prompts(self) -> None:
    """Submits the prompts of all episodes that are ready.

    Of episodes that start together, a first prompt waits for the others of its
    group: they are equal, and prefilled only once if they come together.
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
      self._batcher.submit(request_id, prompt, episode.choices)

  def _start_next(self, env: int) -> None:
    """Starts the next episode, if there is one, in a free environment."""
    if self._queue:
      self._starting[env] = number, task = self._queue.popleft()
      self._env_of[number] = env
      self._pool.send({env: task})

  def _end(self, env: int) -> None:
    episode = self._playing.pop(env)
    self.trajectories[episode.number] = types.Trajectory(
      episode.task,
      tuple(episode.turns),
      episode.step.won,
      episode.step.truncated,
      dict(episode.step.parts),
    )
    self._start_next(env)


def _turn(
  episode: _Episode, reply: Reply, action: str, valid: bool
) -> types.Turn:
  """Records the token ids as they were decoded; the reward comes later."""
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
