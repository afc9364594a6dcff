"""What an experiment will do and need, before it starts.

Nothing is downloaded or allocated: a checkpoint that is not here has the size
that its name says, and the mesh need not be of devices that are here.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from envs import registry
from envs.base import EnvError
from hgpo_jax.config import Config
from hgpo_jax.model import lora, memory
from hgpo_jax.model import registry as models
from hgpo_jax.model.weights import WeightsError
from hgpo_jax.train import build, config_checks, tasks
from hgpo_jax.train import policy as policy_lib

Lines = Iterator[tuple[str, str]]  # name and text


class Plan(NamedTuple):
  """What a run would do, and why it cannot.

  Attributes:
    lines: for people.
    refused: why this cannot work, each with its cure; empty where it can.
  """

  lines: list[str]
  refused: list[str]

  def __str__(self) -> str:
    refused = [f'REFUSED     {reason}' for reason in self.refused]
    return '\n'.join([*self.lines, *refused])


def plan(config: Config, folder: pathlib.Path) -> Plan:
  """Looks ahead at a run of `config` in `folder`."""
  result = Plan([], [])
  result.lines.append(f'{"plan of":<12}{config.cell or folder}')
  # Devices that are not here are no reason against it.
  problems = config_checks.problems(config, build.planned_mesh)
  result.refused.extend(f'ConfigError: {text}' for text in problems)
  for part in (_games,) if problems else (_work, _games, _policy, _files):
    try:
      for name, text in part(config, folder):
        result.lines.append(f'{name:<12}{text}')
    except (ValueError, EnvError, WeightsError, OSError) as error:
      reason = f'{type(error).__name__}: {error}'
      if reason not in result.refused:  # two parts may ask for the same
        result.refused.append(reason)
  return result


def check_devices(config: Config) -> None:
  """Refuses a policy that its mesh cannot hold, whatever devices are here.

  Raises: ConfigError that says why, and what would fit.
  """
  _planned(config).memory()


def _work(config: Config, folder: pathlib.Path) -> Lines:
  """Episodes, and upper bounds of turns, tokens and optimiser steps."""
  c, n = config, config.iterations
  episodes = c.rollout.groups * c.rollout.group_size
  yield 'method', f'{c.algo.estimator}, K = {c.env.history}'
  yield (
    'iterations',
    f'{n:,} of {c.rollout.groups} tasks x {c.rollout.group_size} episodes: '
    f'{n * c.rollout.groups:,} tasks, {n * episodes:,} episodes',
  )
  prompt, reply = max(c.sampling.prompt_buckets), c.sampling.max_reply
  limit = config.env.chosen.get('max_turns')
  if limit is None:  # the world decides
    yield 'tokens', f'at most {prompt:,} + {reply:,} a turn'
    return
  turns = episodes * limit
  tokens = turns * (prompt + reply) / 1e6
  steps = c.optim.epochs * -(-turns // c.optim.minibatch_turns)
  yield 'turns', f'at most {limit} an episode, {turns:,} an iteration'
  yield (
    'tokens',
    f'at most {turns:,} x ({prompt:,} + {reply:,}) = {tokens:,.1f} million an '
    f'iteration, {n * tokens:,.0f} million in all',
  )
  yield (
    'updates',
    f'at most {steps} optimiser steps of {c.optim.minibatch_turns} turns an '
    f'iteration, {n * steps:,} in all',
  )


def _games(config: Config, folder: pathlib.Path) -> Lines:
  """What is played, as far as the world has it."""
  c = config.eval
  world = registry.make_world(config.env.world, config.env.chosen)
  size = world.num_tasks('train')
  played = config.iterations * config.rollout.groups
  if size is None:
    yield 'train games', 'without end, each played once'
  else:
    yield 'train games', f'{size:,}, each played {played / size:.2f} times'
  if c.games < 0:
    yield 'evaluation', 'none'
    return
  counts = {
    split: len(tasks.eval_tasks(c.games, world.num_tasks(split), split))
    for split in c.splits
  }
  games = ' + '.join(f'{n:,} {split}' for split, n in counts.items())
  episodes = sum(counts.values()) * len(c.temperatures) * len(c.seeds)
  between = (config.iterations - 1) // c.every if c.every else 0
  yield (
    'evaluation',
    f'{games} games, temperatures {_list(c.temperatures)}, seeds '
    f'{_list(c.seeds)}: {episodes:,} episodes, {2 + between} times',
  )


def _policy(config: Config, folder: pathlib.Path) -> Lines:
  """Params, devices and the memory of each."""
  policy, mesh = _planned(config), build.planned_mesh(config)
  trained, frozen = _params(policy)
  name = config.policy.checkpoint or config.policy.preset
  yield (
    'policy',
    f'{name}: {_count(trained):,} params trained, {_count(frozen):,} frozen',
  )
  shape = ' x '.join(f'{k} {v}' for k, v in mesh.shape.items())
  ways, here = math.prod(mesh.shape.values()), jax.device_count()
  yield 'devices', f'{ways} = {shape}; {here} here ({jax.default_backend()})'
  if not config.mesh.device_gib and memory.device_memory() is None:
    yield 'note', 'no --config.mesh.device_gib: whether it fits is not checked'
  if jax.default_backend() == 'cpu' and policy.model.config.attention == 'auto':
    yield 'note', 'memory is that of the plain attention, which needs the most'
  yield 'memory', str(policy.memory())


def _files(config: Config, folder: pathlib.Path) -> Lines:
  """What will be written."""
  c = config
  policy = _planned(config)
  trained, _ = _params(policy)
  itemsize = jnp.dtype(c.optim.moments_dtype).itemsize
  size = sum(
    x.size * (x.dtype.itemsize + 2 * itemsize) for x in jax.tree.leaves(trained)
  )
  size *= 1 + policy.has_critic  # of the policy's size
  samples = -(-c.iterations // c.samples_every) if c.samples_every else 0
  yield (
    'files',
    f'{folder}/: config.json, template.json, metrics.jsonl, tensorboard/, '
    f'samples/ ({samples}), warm_start/, checkpoints/ (the newest '
    f'{c.checkpoint.keep}, some {size / memory.GIB:.1f} GiB each), '
    'summary.json',
  )
  if folder.exists() and any(folder.iterdir()):
    yield 'note', f'{folder} holds a run: it would be moved aside'


# ---- what the parts ask ----


def _list(values: Any) -> str:
  return ', '.join(map(str, values))


def _planned(config: Config) -> policy_lib.Policy:
  """The policy on the mesh that is meant."""
  c, checkpoint = config, config.policy.checkpoint
  if checkpoint and not pathlib.Path(checkpoint).is_dir():
    policy = dataclasses.replace(
      c.policy, checkpoint='', preset=models.released(checkpoint)
    )
    c = dataclasses.replace(c, policy=policy)
  tokenizer: Any = _Unread(c.policy.vocab_size)  # all that is asked of one
  return policy_lib.Policy(c, tokenizer, build.planned_mesh(c))


class _Unread:
  """A tokenizer that is not here: its size is known, and no id matters."""

  pad_token_id = 0

  def __init__(self, size: int):
    self._size = size
    self.backend_tokenizer = self

  def __len__(self) -> int:
    return self._size

  def token_to_id(self, token: str) -> int:
    return 0


def _params(policy: policy_lib.Policy) -> tuple[Any, Any]:
  """Shapes of what is trained and of what is not."""
  shapes = policy.model.param_shapes()
  return lora.split(shapes) if policy.model.config.lora else (shapes, {})


def _count(tree: Any) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))
