"""The loop: play -> reward -> update -> record -> save, again and again."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from hgpo_jax import random_streams, types
from hgpo_jax.config import Config
from hgpo_jax.multihost import agreement, exchange, hosts, stopping
from hgpo_jax.train import (
  build,
  config_checks,
  evaluate,
  metrics,
  warm_start,
  worlds,
)
from hgpo_jax.train import learner as learner_lib
from hgpo_jax.train.actor import Actor
from hgpo_jax.train.compilations import Compilations
from hgpo_jax.train.policy import policy_of
from hgpo_jax.train.progress import PendingRecord, Progress, RunCheckpoints


class Interrupted(Exception):
  """Ctrl-C: the state is saved; the text says how to go on."""


@dataclasses.dataclass(frozen=True)
class _Context:
  """What all iterations use; `timer`, `compilations` and `stop` change.

  Attributes:
    folder: where the run writes.
    reference: the frozen base params that the KL is measured to.
  """

  config: Config
  folder: pathlib.Path
  actor: Actor
  learner: learner_lib.Learner
  reference: types.Params
  checkpoints: RunCheckpoints
  timer: metrics.PhaseTimer
  compilations: Compilations
  stop: stopping.Stop


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
    prepare: called before anything is written, when all checks have passed.

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
  timer, stop = metrics.PhaseTimer(), stopping.Stop()
  with (
    Compilations() as compilations,
    build.on_mesh(config),
    stopping.on_sigterm(stop),
    worlds.open_environments(config, stop.check) as environments,
    contextlib.ExitStack() as stack,
  ):
    config_checks.check_games(config, environments)
    prepare()
    checkpoints = RunCheckpoints(folder, config, timer)
    stack.callback(checkpoints.close)
    saved = checkpoints.progress(resume)
    if hosts.is_first():
      metrics.write_json(folder / 'config.json', config.to_dict())
      metrics.write_json(folder / 'template.json', environments.words)
    agreement.shared(folder / 'config.json')

    with timer.phase('warm_start'):
      policy, reference = warm_start.warm_start(config, environments, folder)
    actor = Actor(environments, policy)
    learner = learner_lib.make_learner(policy, actor.sampling)
    state = policy.init_state(
      reference, learner.optimizer, learner.critic_optimizer
    )
    context = _Context(
      config, folder, actor, learner, reference, checkpoints, timer,
      compilations, stop,
    )  # fmt: skip

    if saved is None:
      progress = Progress(results={'warm_start': _evaluate(context, state)})
      checkpoints.save(state, progress)
    else:
      progress, state = saved, checkpoints.restore(state)
    state = _iterate(context, state, progress)
    results = {**progress.results, 'final': _evaluate(context, state)}
    hosts.say(
      f'{actor.compilations()}; XLA compiled {compilations.count} '
      f'programs in {compilations.seconds:.0f} s'
    )
  summary = {
    **{name: result for name, result in results.items() if result},
    'seconds': {k: round(v, 1) for k, v in timer.seconds.items()},
    'compilations': compilations.count,
  }
  if hosts.is_first():
    metrics.write_json(folder / 'summary.json', summary)
  return summary


def _iterate(
  context: _Context, state: types.TrainState, progress: Progress
) -> types.TrainState:
  """Returns the state after the last iteration; starts after `progress`."""
  c, actor, timer = context.config, context.actor, context.timer
  checkpoints = context.checkpoints
  # Ctrl-C is handled before the first file says that the loop runs.
  with (
    stopping.on_ctrl_c(context.stop),
    contextlib.closing(_open_log(context, progress)) as log,
  ):
    if progress.pending:
      _record(context, log, state, progress, progress.pending)
      progress = dataclasses.replace(progress, pending=None)
    for step in range(progress.step, c.iterations):
      # Play.
      before = actor.counts()
      with (
        checkpoints.saved_on_failure(state, progress),
        timer.phase('rollout'),
      ):
        played = actor.rollout(policy_of(state), step)
      lost = {name: x - before[name] for name, x in actor.counts().items()}

      # Reward and update.
      with timer.phase('update'):
        learned = [actor.reward(t) for t in actor.selected(played)]
        seed = random_streams.update_seed(c.seed, step)
        state, scalars = context.learner.update(
          state, context.reference, learned, seed
        )
      progress = dataclasses.replace(progress, step=step + 1)

      # Record.
      scalars = {
        **evaluate.rollout_scalars(played, actor.reward, c.algo.reward_scale),
        **{f'update/{name}': value for name, value in scalars.items()},
        'rollout/taught': len(learned) / len(played),
        **hosts.total(lost),
        **_timing(context, played),
      }
      _record(context, log, state, progress, PendingRecord(step, scalars))
      if c.samples_every and step % c.samples_every == 0 and hosts.is_first():
        text = evaluate.samples(played, actor.codec.text)
        metrics.write_samples(context.folder, step, text)

      # Save.
      asked = hosts.total(vars(context.stop))  # of all processes
      stop = any(asked.values()) and progress.step < c.iterations
      due = c.checkpoint.every and progress.step % c.checkpoint.every == 0
      if stop or due or progress.step == c.iterations:
        checkpoints.save(state, progress)
      if stop:
        kind = exchange.Preempted if asked['now'] else Interrupted
        raise kind(f'Stopped. {checkpoints.how_to_resume(progress)}')
  return state


def _record(
  context: _Context,
  log: metrics.Log,
  state: types.TrainState,
  progress: Progress,
  record: PendingRecord,
) -> None:
  """Evaluates the state, if that is due, and writes an iteration's record."""
  c, done = context.config, progress.step
  results: dict[str, Any] = {}
  if c.eval.every and done % c.eval.every == 0 and done < c.iterations:
    pending = dataclasses.replace(progress, pending=record)
    with context.checkpoints.saved_on_failure(state, pending):
      results = _evaluate(context, state)
  log.write(record.step, {**record.scalars, **evaluate.flat_results(results)})
  log.advance(record.scalars)


def _evaluate(context: _Context, state: types.TrainState) -> dict[str, Any]:
  """Plays the evaluation games; {} where the config asks for none."""
  if context.config.eval.games < 0:
    return {}
  with context.timer.phase('evaluation'):
    return context.actor.evaluate(policy_of(state))


def _timing(
  context: _Context, played: Sequence[types.Trajectory]
) -> dict[str, float]:
  """The scalars of an iteration that differ between equal runs."""
  seconds, servers = context.timer.last, context.actor.environments.counts()
  turns = [turn for t in played for turn in t.turns]
  tokens = sum(turn.prompt.size + turn.reply.size for turn in turns)
  return {
    'time/rollout_s': seconds['rollout'],
    'time/update_s': seconds['update'],
    'time/compilations': context.compilations.count,
    **{f'time/env_{name}': x for name, x in hosts.total(servers).items()},
    'time/tokens_per_second': tokens / (seconds['rollout'] + seconds['update']),
  }


def _open_log(context: _Context, progress: Progress) -> metrics.Log:
  """Opens the files of the process that writes them."""
  if not hosts.is_first():
    return metrics.Log()
  first = progress.pending.step if progress.pending else progress.step
  last, folder = context.config.iterations, context.folder
  return metrics.Metrics(folder, first=first, last=last, label=folder.name)
