"""SIGTERM: what was being played is given up, nothing that was learned is."""

import dataclasses
import os
import signal

import pytest

from experiments.configs import base, toy
from hgpo_jax.multihost import exchange, stopping
from hgpo_jax.train import actor, loop
from tests.runs import records

STEPS = 3


def config(**evaluation):
  c = toy.get_config().unlock()
  c.iterations, c.eval.games, c.checkpoint.every = STEPS, -1, 0
  c.rollout.update(groups=2, group_size=4, episodes=8, lockstep=True)
  c.eval.update(evaluation)
  return base.freeze(c)


def test_a_run_that_was_told_to_stop_goes_on_as_if_it_had_not(
  tmp_path, monkeypatch
):
  loop.train(config(), tmp_path / 'whole')
  rollout = actor.Actor.rollout

  def preempted(self, params, step):
    if step == 1:
      os.kill(os.getpid(), signal.SIGTERM)
    return rollout(self, params, step)

  monkeypatch.setattr(actor.Actor, 'rollout', preempted)
  folder = tmp_path / 'run'
  with pytest.raises(exchange.Preempted):
    loop.train(config(), folder)
  assert records(folder) == records(tmp_path / 'whole')[:1]
  monkeypatch.undo()
  loop.train(config(), folder, resume=True)
  assert records(folder) == records(tmp_path / 'whole')


def test_a_run_that_was_stopped_while_it_was_evaluated_misses_nothing(
  tmp_path, monkeypatch
):
  c = dataclasses.replace(config(games=4, every=1), iterations=2)
  loop.train(c, tmp_path / 'whole')
  evaluate = actor.Actor.evaluate
  calls = []

  def preempted(self, params):
    calls.append(0)
    if len(calls) == 2:  # the first was after the warm start
      os.kill(os.getpid(), signal.SIGTERM)
    return evaluate(self, params)

  monkeypatch.setattr(actor.Actor, 'evaluate', preempted)
  folder = tmp_path / 'run'
  with pytest.raises(exchange.Preempted):
    loop.train(c, folder)
  calls.pop()
  with pytest.raises(exchange.Preempted):  # once more before it is evaluated
    loop.train(c, folder, resume=True)
  assert not records(folder)
  monkeypatch.undo()
  loop.train(c, folder, resume=True)
  assert records(folder) == records(tmp_path / 'whole')


def test_signals_are_given_back():
  before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
  stop = stopping.Stop()
  with stopping.on_ctrl_c(stop), stopping.on_sigterm(stop):
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.after_iteration
    assert not stop.now
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
    stop.check()
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(exchange.Preempted):
      stop.check()
  after = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
  assert after == before
