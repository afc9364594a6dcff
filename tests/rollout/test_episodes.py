"""Rollouts: what is recorded is what happened, whoever waited for whom."""

import random
import signal
import threading
import time
import types

import jax
import numpy as np
import pytest

from envs import agent, inline
from envs.base import Task, UnknownTask
from envs.serving import local
from envs.toy import GuessWorld
from hgpo_jax.rollout.episodes import Collector, Schedule
from hgpo_jax.sampler.batcher import Batcher, Reply
from hgpo_jax.sampler.decode import DecodeShapes
from hgpo_jax.sampler.sampling import Sampling
from hgpo_jax.train.compilations import Compilations
from tests.small_decoder import small_model

WORDS = ('left', 'right', 'up')


def collect(envs, agent, codec, batcher, tasks, schedule, **more):
  collector = Collector(envs, agent, codec, schedule, **more)
  return collector.collect(batcher, tasks)


class Letters:
  """A codec of one token per character, 0 at the end."""

  def prompts(self, messages):
    return [[ord(c) for c in m] for m in messages]

  def choices(self, texts):
    return tuple((*(ord(c) for c in t), 0) for t in texts)

  def text(self, tokens):
    return ''.join(chr(t) for t in tokens if t)


class Plain:
  """Words without a template: what the walk shows is what is read."""

  def task(self, first_observation):
    return first_observation

  def message(self, task, history, step):
    del task, history
    return step.observation

  def replies(self, step):
    del step
    return WORDS

  def project(self, reply, step):
    del step
    return reply, reply in WORDS


class Walks:
  """Task n takes n % 7 + 1 moves; what is seen tells all moves so far."""

  def __init__(self, before=lambda env, task, move: None):
    """Calls `before` in every call, with None as the move of a start."""
    self._before, self._walks = before, {}
    self._stepping = set()

  def __call__(self, requests):
    assert not self._stepping & set(requests), 'two calls for one env'
    self._stepping |= set(requests)
    answers = {s: self._one(s, r) for s, r in requests.items()}
    self._stepping -= set(requests)
    return answers

  def _one(self, env, request):
    start = not isinstance(request, str)
    task, moves = (request, ()) if start else self._walks[env]
    self._before(env, task, None if start else request)
    moves = moves if start else (*moves, request)
    self._walks[env] = task, moves
    done = len(moves) > task % 7
    return types.SimpleNamespace(
      observation=f'{task}:' + ''.join(m[0] for m in moves),
      reward=float(done and moves[-1] == 'up'),
      won=done and moves[-1] == 'up',
      truncated=done and moves[-1] != 'up',
      done=done,
      parts={'steps': float(len(moves))} if done else {},
    )


class Script:
  """A policy that gives `say(request_id, prompt)` when `ready(request_id)`."""

  def __init__(
    self, say=lambda request_id, prompt: 'up', ready=lambda request_id: True
  ):
    self._say, self._ready = say, ready
    self._asked, self.requests, self._looks = {}, [], 0

  @property
  def busy(self):
    return bool(self._asked)

  def submit(self, request_id, prompt, choices=()):
    del choices
    self._asked[request_id] = np.array(prompt, np.int32)
    self.requests.append(request_id)

  def start(self):
    pass

  def finished(self):
    self._looks += 1
    assert self._looks < 10_000, 'nobody goes on'
    done = [request_id for request_id in self._asked if self._ready(request_id)]
    return [
      self._reply(request_id, self._asked.pop(request_id))
      for request_id in done
    ]

  def _reply(self, request_id, prompt):
    word = self._say(request_id, ''.join(map(chr, prompt)))
    tokens = np.array([*map(ord, word), 0], np.int32)
    return Reply(request_id, prompt, tokens, -np.ones(len(tokens), np.float32))


def follow_hint(request_id, prompt):
  """Answers the word that the last hint asks for; every third episode errs."""
  hint = prompt.rstrip('.').split()[-1]
  return 'nonsense' if request_id.episode % 3 == 0 else hint


def guess(tasks, constrained=True, step_envs=None, **schedule):
  world = GuessWorld(num_words=4)
  layer = agent.AgentLayer(world.templates['compact'], 2, constrained)
  envs = step_envs or inline.InlineClient(world.make_env)
  policy = Script(follow_hint)
  return collect(envs, layer, Letters(), policy, tasks, Schedule(**schedule))


def test_trajectories_record_prompt_reply_state_and_reward():
  tasks = [Task('train', i) for i in (0, 0, 1, 2, 3)]
  trajectories = guess(tasks)
  assert [t.task for t in trajectories] == tasks
  assert {t.won for t in trajectories} == {True, False}
  for trajectory in trajectories:
    assert len(trajectory.turns) == 2
    assert trajectory.turns[0].observation.startswith('Say ')
    last = trajectory.turns[-1]
    assert [last.reward, trajectory.turns[0].reward] == [trajectory.won, 0]
    assert chr(last.reply[0]) == last.action[0]
    assert last.reply[-1] == 0
    assert last.reply.shape == last.log_probs.shape
    assert len(last.choices) == 4
    # The second prompt holds the first turn, the template's words around it.
    text = ''.join(map(chr, last.prompt))
    assert text.startswith(trajectory.turns[0].observation)


def test_unconstrained_rows_carry_no_choices():
  (trajectory,) = guess([Task('train', 0)], constrained=False)
  assert trajectory.turns[0].choices == ()


def test_servers_and_threads_change_nothing():
  tasks = [Task('train', i % 12) for i in range(20)]
  expected = [actions(t) for t in guess(tasks, episodes=3)]
  with local.open_client('toy', {'num_words': 4}, 2) as servers:
    for workers in (0, 4):
      got = guess(tasks, step_envs=servers, workers=workers, episodes=7)
      assert [actions(t) for t in got] == expected


def actions(trajectory):
  return [(t.observation, t.action, t.reward) for t in trajectory.turns]


# ---- schedules --------------------------------------------------------------

MODEL = small_model(128, 16, 32, 2, 4, 2, 4)


@pytest.fixture(scope='module')
def params():
  params = jax.jit(MODEL.init)(jax.random.key(0))
  return jax.tree.map(lambda a: a * 10 if a.ndim > 1 else a, params)


def walk(
  params,
  schedule,
  *,
  decode_rows=8,
  chunk=3,
  prefill_rows=2,
  step_envs=None,
  tasks=tuple(i // 2 for i in range(30)),
):
  """Plays walks with a real policy, which is drawn at random."""
  shapes = DecodeShapes(
    rows=decode_rows,
    max_reply=6,
    prompt_buckets=(12,),
    prefill_buckets=(8,),
    max_choices=3,
    chunk=chunk,
    prefill_rows=prefill_rows,
    end_id=0,
    pad_id=0,
  )
  policy = Batcher(MODEL, shapes, Sampling(), params, jax.random.key(5))
  envs = step_envs or Walks()
  return collect(envs, Plain(), Letters(), policy, tasks, schedule)


@pytest.fixture(scope='module')
def lockstep(params):
  return walk(params, Schedule(lockstep=True))


def naps(seed):
  rng = random.Random(seed)
  return Walks(lambda *_: time.sleep(rng.choice((0, 0, 0.001, 0.01))))


@pytest.mark.parametrize(
  ('schedule', 'more'),
  [
    (Schedule(), {}),
    (Schedule(episodes=5, lockstep=True), {}),
    (Schedule(workers=3), {'step_envs': naps(0), 'prefill_rows': 8}),
    (Schedule(workers=9, lockstep=True), {'step_envs': naps(1)}),
    (Schedule(episodes=9), {'decode_rows': 3, 'chunk': 1, 'prefill_rows': 1}),
    (Schedule(episodes=9, workers=2), {'decode_rows': 3, 'chunk': 9}),
  ],
)
def test_the_schedule_changes_nothing(params, lockstep, schedule, more):
  """Equal tokens, and log-probs within rounding, as in lockstep."""
  assert [len(t.turns) for t in lockstep] == [i // 2 % 7 + 1 for i in range(30)]
  assert len({t.turns[0].action for t in lockstep}) > 1
  played = walk(params, schedule, **more)
  for a, b in zip(played, lockstep, strict=True):
    assert (a.task, a.won, actions(a)) == (b.task, b.won, actions(b))
    for x, y in zip(a.turns, b.turns, strict=True):
      np.testing.assert_array_equal(x.prompt, y.prompt)
      np.testing.assert_array_equal(x.reply, y.reply)
      np.testing.assert_allclose(x.log_probs, y.log_probs, rtol=0, atol=1e-5)


def test_longer_episodes_compile_nothing_more(params):
  """Eager operations are compilations, too, and there are none."""
  short, long = [0, 0, 1], [6] * 20
  walk(params, Schedule(), tasks=short)
  with Compilations() as compilations:
    played = walk(params, Schedule(), tasks=long)
  assert sum(len(t.turns) for t in played) == 140
  assert compilations.count == 0


def test_every_turn_is_a_request_of_its_own():
  policy, tasks = Script(), list(range(40))
  schedule = Schedule(episodes=6)
  played = collect(Walks(), Plain(), Letters(), policy, tasks, schedule)
  expected = [(i, k) for i, t in enumerate(played) for k in range(len(t.turns))]
  assert sorted(policy.requests) == expected
  # What the last reward is made of comes along.
  assert [t.parts for t in played] == [{'steps': len(t.turns)} for t in played]


def test_a_slow_environment_holds_up_nobody():
  """One call returns only after all other episodes have ended."""
  others = threading.Event()
  ended = []

  def before(env, task, move):
    del env
    if task == 6 and move:
      assert others.wait(10), 'the others waited, too'
    elif task != 6 and move:
      ended.append(task)
      if len(ended) == 3 * (1 + 2 + 3):
        others.set()

  tasks = [6, *[0, 1, 2] * 3]
  schedule = Schedule(workers=2)
  played = collect(Walks(before), Plain(), Letters(), Script(), tasks, schedule)
  assert [len(t.turns) for t in played] == [7, *[1, 2, 3] * 3]


def test_equal_starts_are_asked_together():
  """Also where each environment takes its own time to start."""
  waves, asked = [], threading.Event()

  class Noting(Script):
    def finished(self):
      waves.append({t.episode for t in self.requests if not t.turn})
      if {0, 1, 2} in waves:
        asked.set()
      return super().finished()

  def before(env, task, move):
    del task
    if not move and env < 3:
      time.sleep(0.01 * env)
    elif not move:  # the other group is not waited for
      assert asked.wait(timeout=60)

  tasks, schedule = [5, 5, 5, 1, 1], Schedule(workers=5)
  collect(Walks(before), Plain(), Letters(), Noting(), tasks, schedule)
  assert all(not {0, 1, 2} & w or {0, 1, 2} <= w for w in waves)
  assert all((3 in w) == (4 in w) for w in waves)


def test_impossible_schedules_are_refused():
  for wrong in ({'episodes': 0}, {'workers': -1}):
    with pytest.raises(ValueError, match='expected at least'):
      Schedule(**wrong)


def test_a_long_reply_holds_up_nobody():
  moved = []  # the task of every move
  walks = Walks(lambda env, task, move: move and moved.append(task))
  policy = Script(
    ready=lambda request_id: request_id.episode > 0 or len(moved) >= 6
  )
  collect(walks, Plain(), Letters(), policy, [6, 0, 1, 2], Schedule())
  assert sorted(moved[:6]) == [0, 1, 1, 2, 2, 2]
  assert moved[6:] == [6] * 7


@pytest.mark.parametrize('workers', [0, 3])
def test_an_error_surfaces_at_once(workers):
  """While another environment is still at work, which then ends its thread."""
  free = threading.Event()

  def before(env, task, move):
    del env
    if task == 5 and workers:
      free.wait(10)
    if task == 2 and move:
      raise UnknownTask('no such move')

  start = time.monotonic()
  tasks = [5, 2, 3, 4]
  schedule = Schedule(workers=workers)
  with pytest.raises(UnknownTask, match='no such move'):
    collect(Walks(before), Plain(), Letters(), Script(), tasks, schedule)
  assert time.monotonic() - start < 5
  free.set()
  no_thread_is_left()


def test_a_stop_ends_the_rollout_between_two_turns():
  """Whatever the check raises, before the environments are called again."""
  calls, moves = [], []

  def check():
    calls.append(0)
    if len(calls) == 3:
      raise InterruptedError('enough')

  walks = Walks(lambda env, task, move: move and moves.append(task))
  with pytest.raises(InterruptedError, match='enough'):
    collect(
      walks, Plain(), Letters(), Script(), [6, 6], Schedule(), check=check
    )
  assert moves == [6, 6]


def test_ctrl_c_surfaces_at_once():
  free = threading.Event()

  def before(env, task, move):
    del env, task
    if move:
      time.sleep(0.1)  # until the rollout waits for this very call
      signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
      free.wait(10)

  # A process that was started in the background may ignore the signal.
  ours = signal.signal(signal.SIGINT, signal.default_int_handler)
  start = time.monotonic()
  try:
    schedule = Schedule(workers=1)
    with pytest.raises(KeyboardInterrupt):
      collect(Walks(before), Plain(), Letters(), Script(), [3], schedule)
  finally:
    signal.signal(signal.SIGINT, ours)
  assert time.monotonic() - start < 5
  free.set()
  no_thread_is_left()


def no_thread_is_left():
  for thread in threading.enumerate():
    if thread.name.startswith('environments'):
      thread.join(5)
      assert not thread.is_alive()
