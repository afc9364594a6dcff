"""Run in several processes by test_hosts.py: what all of them know."""

import argparse
import os
import pathlib
import signal
import tempfile
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from experiments.configs import base, toy
from hgpo_jax import types
from hgpo_jax.model import sharding
from hgpo_jax.multihost import agreement, exchange, hosts, stopping
from hgpo_jax.train import checkpoint
from tests import several
from tests.small_decoder import small_model

MODEL = small_model(
  vocab_size=32,
  width=16,
  ff_width=32,
  num_layers=2,
  num_heads=2,
  num_kv_heads=2,
  head_dim=8,
)


def episode(number):
  turn = types.Turn(
    prompt=np.arange(number + 1, dtype=np.int32),
    reply=np.array([7, 8], np.int32),
    log_probs=np.array([-0.1, -1 / 3], np.float32),
    choices=((7, 8), (9,)),
    observation=f'room {number} é \ud800',
    action='go',
    valid=number % 2 == 0,
    reward=number / 3,
  )
  return types.Trajectory(
    task=('train', number),
    turns=(turn,) * number,
    won=number % 3 == 0,
    truncated=False,
    parts={'r_price': 1.0} if number else {},
  )


def same(a, b):
  return repr(a) == repr(b)  # arrays print all that they hold here


def check_words(count):
  me = jax.process_index()
  assert hosts.count() == count
  assert hosts.broadcast_from_first(10 + me) == 10
  assert hosts.any_process(me == count - 1)
  assert not hosts.any_process(False)
  assert hosts.total({'a': 1 + me}) == {'a': count * (count + 1) / 2}
  # One process may have environment servers, and count, where others do not.
  assert hosts.total({'b': 2} if me else {}) == {'b': 2 * (count - 1)}
  told = [bytes([n]) * (1 + 100 * n) for n in range(count)]
  assert hosts.gather(told[me]) == told
  hosts._PIECE = 64  # longer ones go in pieces
  assert hosts.gather(told[me]) == told


def check_episodes():
  everything = [episode(n) for n in range(7)]

  own = [everything[n] for n in hosts.share(len(everything))]
  assert same(exchange.exchanged(own), everything)
  assert exchange.exchanged([]) == []
  for error, kind in (
    (RuntimeError('a wall'), exchange.PlayFailed),
    (exchange.Preempted('now'), exchange.Preempted),
  ):
    here = ([], error) if hosts.is_first() else (own, None)
    text = '' if kind is exchange.Preempted else 'process 0: Runt'
    with pytest.raises(kind, match=text):
      exchange.exchanged(*here)


def check_signals(count):
  """The last one is told while it waits, inside of XLA, for the others."""
  stop, last = stopping.Stop(), jax.process_index() == count - 1
  with stopping.on_sigterm(stop):
    hosts.wait('all listen')
    if last:
      threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    end = time.monotonic() + 30
    while not (last or stop.now):
      assert time.monotonic() < end, 'was not told'
      time.sleep(0.05)
    hosts.wait('all were told')
    assert stop.now


def check_agreement():
  me = jax.process_index()
  config = toy.get_config().unlock()
  config.env.addresses = (f'127.0.0.1:{me}',)  # everyone's own
  agreement.same_config(base.freeze(config))
  config.seed = me
  config = base.freeze(config)
  refused(types.ConfigError, 'seed: 0 -> 1', agreement.same_config, config)
  with tempfile.TemporaryDirectory() as name:
    written = pathlib.Path(name) / 'config.json'
    if hosts.is_first():
      written.touch()
    refused(checkpoint.CheckpointError, 'share', agreement.shared, written)
    store = store_of(me)
    refused(checkpoint.CheckpointError, '7, None', agreement.newest, store)


def store_of(me):
  """What the first process sees, and the others do not."""
  return argparse.Namespace(folder='runs', latest=lambda: None if me else 7)


def refused(kind, said, check, *args):
  with pytest.raises(kind, match=said):
    check(*args)


def check_params(shape):
  mesh = sharding.make_mesh(*shape)
  own = sharding.own_part(mesh)
  assert own.size == jax.local_device_count()
  draw = jax.jit(
    MODEL.init,
    out_shardings=sharding.param_shardings(mesh, MODEL.param_shapes(), MODEL),
  )
  with jax.set_mesh(mesh):
    params = draw(jax.random.key(0))
    copied = sharding.on_own_part(mesh, own, params, MODEL)
    sums = checkpoint._checksums(params)
  for x, y in zip(*map(jax.tree.leaves, (params, copied)), strict=True):
    np.testing.assert_array_equal(hosts.whole(x), np.asarray(y))
    assert y.sharding.mesh == own
  with jax.set_mesh(own):
    assert checkpoint._checksums(copied) == sums
    doubled = jax.jit(lambda tree: jax.tree.map(jnp.add, tree, tree))(copied)
  assert all(x.is_fully_addressable for x in jax.tree.leaves(doubled))
  rows = jax.device_put(
    np.arange(16.0), NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))
  )
  np.testing.assert_array_equal(hosts.whole(rows), np.arange(16.0))


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--coordinator')
  parser.add_argument('--num_processes', type=int)
  parser.add_argument('--process_id', type=int)
  told = parser.parse_args()
  hosts.initialize(**vars(told))
  check_words(told.num_processes)
  check_episodes()
  check_signals(told.num_processes)
  check_agreement()
  for shape in ((8, 1, 1), (1, 8, 1), (2, 2, 2)):
    check_params(shape)
  mixed = [jax.devices()[i] for i in (0, 1, 2, 4, 3, 5, 6, 7)]
  mesh = sharding.make_mesh(2, 2, 2, mixed)
  refused(types.ConfigError, 'no block', sharding.own_part, mesh)
  print(f'{told.process_id} saw all of {several.DEVICES} devices')


if __name__ == '__main__':
  main()
