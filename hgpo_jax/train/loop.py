"""The loop, and the only file where worlds, rollout and learner meet."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from envs import agent as agent_lib
from envs import inline, registry
from envs.base import EnvError, Task
from hgpo_jax import config as config_lib
from hgpo_jax import types
from hgpo_jax.config import Config
from hgpo_jax.multihost import agreement, exchange, hosts, stopping
from hgpo_jax.train import build as model_lib
from hgpo_jax.train import (
  checkpoint,
  config_checks,
  evaluate,
  metrics,
  saved,
  warm_start,
)
from hgpo_jax.train import policy as policy_lib
from hgpo_jax.train import run as run_lib
from hgpo_jax.train.compilations import Compilations
from hgpo_jax.train.learner import Learner


class Interrupted(Exception):
  """Ctrl-C: the state is saved; the text says how to go on."""


_GO_ON = 'The same command with --resume goes on.'


@contextlib.contextmanager
def open_environments(
  config: Config, check: Callable[[], None] = lambda: None
) -> Iterator[run_lib.Environments]:
  """Opens the config's world: its environments, tasks and words.

  Args:
    config: the experiment.
    check: called while servers are waited for; may raise.
  """
  env = config.env
  options = env.chosen
  world = registry.make_world(env.world, options)
  template = agent_lib.make_template(
    env.template, world.templates, env.template_file
  )
  environments = run_lib.Environments(
    world=world,
    make_task=Task,
    agent=agent_lib.AgentLayer(template, env.history, env.constrained),
    words=dataclasses.asdict(template),
    step_envs=inline.InlineClient(world.make_env),
  )
  if not env.addresses and not env.servers:
    yield environments
    return
  from envs.serving import client, local  # a run without servers loads no gRPC

  waiting = {'timeout': env.timeout, 'patience': env.patience, 'check': check}
  with contextlib.ExitStack() as stack:
    if env.addresses:
      credentials = client.read_credentials(env.token_file, env.ca_file)
      served = client.GrpcClient(
        env.addresses, env.world, options, credentials, **waiting
      )
      stack.enter_context(served)
    else:
      served = stack.enter_context(
        local.open_client(env.world, options, env.servers, **waiting)
      )
    yield dataclasses.replace(
      environments, step_envs=served, counts=lambda: vars(served.counts)
    )


def train(
  config: Config,
  folder: pathlib.Path,
  *,
  resume: bool = False,
  prepare: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
  """Runs an experiment to its end.

  Args:
    config: see hgpo_jax/config/sections.py.
    folder: where everything is written.
    resume: continue from the newest checkpoint in `folder`.
    prepare: called before anything is written, when nothing is known that
      speaks against the run.

  Returns: what summary.json holds: success after the warm start and at the
    end, seconds per phase, XLA's compilations.
  Raises:
    Interrupted: Ctrl-C; a checkpoint was saved.
    exchange.Preempted: SIGTERM, in any process; so too, once the loop runs.
    exchange.PlayFailed: episodes failed in one of several processes; so too.
    checkpoint.CheckpointError: the checkpoint does not fit or is damaged.
  """
  config_checks.check(config)
  agreement.same_config(config)
  seconds: dict[str, float] = {}
  results: dict[str, Any] = {}
  stop = stopping.Stop()
  with (
    Compilations() as compilations,
    model_lib.on_mesh(config),
    stopping.on_sigterm(stop),
    open_environments(config, stop.check) as opened,
    contextlib.ExitStack() as stack,
  ):
    environments = dataclasses.replace(
      opened, step_envs=stopping.unless_stopped(stop, opened.step_envs)
    )
    run_lib.check_games(config, environments)
    prepare()
    store = checkpoint.Checkpoints(
      folder / 'checkpoints', config.checkpoint.keep
    )
    stack.enter_context(contextlib.closing(store))
    meta = _resumed(store, config) if resume else None
    if meta is None:
      _check_fresh(store)
    if hosts.is_first():
      metrics.write_json(folder / 'config.json', config.to_dict())
      metrics.write_json(folder / 'template.json', environments.words)
    agreement.shared(folder / 'config.json')
    with _timed(seconds, 'warm_start'):
      run, reference = warm_start.warm_start(config, environments, folder)
    learner = run.make_learner()
    state = run.policy.init_state(
      reference, learner.optimizer, learner.critic_optimizer
    )
    loop = _Loop(
      run, learner, store, folder, results, seconds, compilations, stop
    )
    if meta:
      state = saved.restored(store, saved.freed(state))
      results.update(meta['results'])
      seconds.update(meta['seconds'])
    else:
      if config.eval.games >= 0:
        with _timed(seconds, 'evaluation'):
          results['warm_start'] = run.evaluate(policy_lib.policy_of(state))
      loop.save(state, 0)
    first, owed = (meta['step'], meta.get('owed')) if meta else (0, None)
    state = loop.run(state, reference, first, owed)
    if config.eval.games >= 0:
      with _timed(seconds, 'evaluation'):
        results['final'] = run.evaluate(policy_lib.policy_of(state))
    hosts.say(
      f'{run.player.compilations()}; XLA compiled {compilations.count} '
      f'programs in {compilations.seconds:.0f} s'
    )
  summary = {
    **results,
    'seconds': {k: round(v, 1) for k, v in seconds.items()},
    'compilations': compilations.count,
  }
  if hosts.is_first():
    metrics.write_json(folder / 'summary.json', summary)
  return summary


class _Loop:
  """Rollout -> update -> metrics -> samples -> checkpoint, again and again."""

  def __init__(
    self,
    run: run_lib.Run,
    learner: Learner,
    store: checkpoint.Checkpoints,
    folder: pathlib.Path,
    results: dict[str, Any],
    seconds: dict[str, float],
    compilations: Compilations,
    stop: stopping.Stop,
  ):
    self._run, self._learner, self._store = run, learner, store
    self._folder, self._results, self._seconds = folder, results, seconds
    self._compilations, self._stop = compilations, stop

  def run(
    self,
    state: types.TrainState,
    reference: Any,
    first: int,
    owed: Mapping[str, float] | None = None,
  ) -> types.TrainState:
    """Returns the state after the last iteration; starts at `first`.

    The record of the iteration before it is `owed` where that was saved while
    it was evaluated.
    """
    c = self._run.config
    # Ctrl-C is ours before the first file says that the loop runs.
    with (
      stopping.on_ctrl_c(self._stop),
      contextlib.closing(self._open_log(first - bool(owed))) as log,
    ):
      if owed:
        self._record(log, state, first - 1, owed)
      for step in range(first, c.iterations):
        with self._saved_on_failure(state, step):
          state, record, played = self._iteration(state, reference, step)
        done = step + 1
        self._record(log, state, step, record)
        if c.samples_every and step % c.samples_every == 0:
          self._write_samples(step, played)
        asked = hosts.total(vars(self._stop))  # soon, now: of all processes
        stop = any(asked.values()) and done < c.iterations
        every = c.checkpoint.every
        if stop or done == c.iterations or (every and done % every == 0):
          self.save(state, done)
        if stop:
          kind = exchange.Preempted if asked['now'] else Interrupted
          raise kind(f'Stopped. {self._saved(done)}')
    return state

  def _record(
    self,
    log: metrics.Log,
    state: types.TrainState,
    step: int,
    record: Mapping[str, float],
  ) -> None:
    """Evaluates what iteration `step` left, if due, and writes its record."""
    c, done = self._run.config, step + 1
    found: dict[str, float] = {}
    if c.eval.every and done % c.eval.every == 0 and done < c.iterations:
      with (
        _timed(self._seconds, 'evaluation'),
        self._saved_on_failure(state, done, record),
      ):
        policy = policy_lib.policy_of(state)
        found = evaluate.flat_results(self._run.evaluate(policy))
    log.write(step, {**record, **found})
    log.advance(record)

  def _open_log(self, first: int) -> metrics.Log:
    if not hosts.is_first():
      return metrics.Nowhere()
    last, name = self._run.config.iterations, self._folder.name
    return metrics.Metrics(self._folder, first=first, last=last, label=name)

  def _saved(self, done: int) -> str:
    return f'{done} iterations are saved in {self._store.folder}. {_GO_ON}'

  def _iteration(
    self, state: types.TrainState, reference: Any, step: int
  ) -> tuple[types.TrainState, dict[str, float], list[types.Trajectory]]:
    c, before = self._run.config, self._counts()
    with _timed(self._seconds, 'rollout') as rollout_s:
      played = self._run.rollout(policy_lib.policy_of(state), step)
    counted = {n: x - before[n] for n, x in self._counts().items()}
    counted = hosts.total(counted)
    with _timed(self._seconds, 'update') as update_s:
      seed = (c.seed, run_lib.ORDER, step)
      taught = [self._run.rewarded(t) for t in self._run.teaching(played)]
      state, scalars = self._learner.update(state, reference, taught, seed)
    turns = [turn for t in played for turn in t.turns]
    tokens = sum(turn.prompt.size + turn.reply.size for turn in turns)
    return (
      state,
      {
        **evaluate.rollout_scalars(
          played, self._run.rewarded, c.algo.reward_scale
        ),
        **{f'update/{name}': value for name, value in scalars.items()},
        'rollout/taught': len(taught) / len(played),
        **counted,
        'time/rollout_s': rollout_s(),
        'time/update_s': update_s(),
        'time/compilations': self._compilations.count,
        **self._server_counts(),
        'time/tokens_per_second': tokens / (rollout_s() + update_s()),
      },
      played,
    )

  def _counts(self) -> dict[str, float]:
    """What this process counted since its start."""
    return {
      'rollout/truncated_prompts': self._run.player.counts.truncated,
      'rollout/dropped_choices': self._run.codec.dropped,
    }

  def _server_counts(self) -> dict[str, float]:
    counts = hosts.total(self._run.environments.counts())
    return {f'time/env_{name}': value for name, value in counts.items()}

  @contextlib.contextmanager
  def _saved_on_failure(
    self,
    state: types.TrainState,
    done: int,
    owed: Mapping[str, float] | None = None,
  ) -> Iterator[None]:
    """Saves what was learned before a failure of the play goes on.

    Episodes are played before the update, so `state` is whole. Where it was the
    evaluation, the last iteration's record is `owed` to the metrics.
    """
    try:
      yield
    except (EnvError, exchange.PlayFailed, exchange.Preempted) as error:
      self.save(state, done, owed)
      hosts.say(f'\n{type(error).__name__}. {self._saved(done)}')
      raise

  def save(
    self,
    state: types.TrainState,
    done: int,
    owed: Mapping[str, float] | None = None,
  ) -> None:
    """Writes a checkpoint from which iteration `done` can be played next."""
    meta = {
      'step': done,
      'results': self._results,
      'seconds': self._seconds,
      'config': self._run.config.to_dict(),
      'owed': owed and {name: float(x) for name, x in owed.items()},
    }
    self._store.save(done, saved.tree_of(state), meta)

  def _write_samples(
    self, step: int, played: Sequence[types.Trajectory]
  ) -> None:
    """Writes one won and one lost episode of an iteration, if there are."""
    if not hosts.is_first():
      return
    chosen = [
      next((t for t in played if t.won == won), None) for won in (True, False)
    ]
    decode = self._run.codec.text
    text = '\n'.join(evaluate.transcript(t, decode) for t in chosen if t)
    path = self._folder / 'samples' / f'step_{step:06d}.txt'
    path.parent.mkdir(exist_ok=True)
    metrics.write_atomic(path, text)


def _check_fresh(store: checkpoint.Checkpoints) -> None:
  """Refuses to start over in a folder that holds a run."""
  if (step := agreement.newest(store)) is not None:
    raise checkpoint.CheckpointError(
      f'{store.folder} holds a run (iteration {step}). Resume it, or give '
      'another run_dir.'
    )


def _resumed(
  store: checkpoint.Checkpoints, config: Config
) -> dict[str, Any] | None:
  """Returns what the newest checkpoint says, None if nothing is saved yet."""
  if agreement.newest(store) is None:
    hosts.say(
      f'{store.folder} holds no checkpoint yet: starting from the beginning'
    )
    return None
  meta = store.meta()
  wrong = config_lib.differences(
    meta['config'], config.to_dict(), config_lib.fixed_on_resume, config
  )
  if wrong:
    raise checkpoint.CheckpointError(
      f'{store.folder} belongs to another configuration (saved -> given): '
      f'{"; ".join(wrong)}. Give these fields their saved values, or another '
      'run_dir.'
    )
  hosts.say(f'resuming {store.folder} after iteration {meta["step"]}')
  return meta


@contextlib.contextmanager
def _timed(
  seconds: dict[str, float], name: str
) -> Iterator[Callable[[], float]]:
  """Adds a phase's wall time to `seconds`; the callable gives this one's."""
  start, spent = time.perf_counter(), 0.0
  try:
    yield lambda: spent
  finally:
    spent = time.perf_counter() - start
    seconds[name] = seconds.get(name, 0.0) + spent
