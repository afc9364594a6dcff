"""The episodes that each process played -> those of all, in every process.

Every process then packs all of them and computes all advantages: mini-batches
are drawn from whole turns, and some estimators look at the whole batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np

from hgpo_jax import types
from hgpo_jax.multihost import hosts


class Preempted(Exception):
  """A process got SIGTERM; the episodes that it was playing are lost."""


class PlayFailed(Exception):
  """Episodes failed in some processes; the text says where and how."""


def exchanged(
  tasks: Sequence[Any],
  played: Sequence[types.Trajectory],
  failure: Exception | None = None,
) -> list[types.Trajectory]:
  """Gives every process the episodes of all.

  Args:
    tasks: the start states of all episodes.
    played: this process's own, of `hosts.share(len(tasks))`.
    failure: what ended them early, in this process.

  Returns: all trajectories, in the order of `tasks`, in every process.
  Raises, in all processes alike:
    Preempted: it is the `failure` of one of them.
    PlayFailed: one of them has another failure. A single process raises the
      failure itself.
  """
  if hosts.count() == 1:
    if failure is not None:
      raise failure
    return list(played)
  messages = [_unpacked(x) for x in hosts.gather(_packed(played, failure))]
  if any(message['preempted'] for message in messages):
    raise Preempted('SIGTERM in one of the processes') from failure
  errors = [
    f'process {number}: {message["error"]}'
    for number, message in enumerate(messages)
    if message['error']
  ]
  if errors:
    raise PlayFailed('; '.join(errors)) from failure
  episodes = [fields for message in messages for fields in message['episodes']]
  return [
    _trajectory(task, fields)
    for task, fields in zip(tasks, episodes, strict=True)
  ]


def _packed(
  played: Sequence[types.Trajectory], failure: Exception | None
) -> bytes:
  message = {
    'preempted': isinstance(failure, Preempted),
    'error': f'{type(failure).__name__}: {failure}' if failure else '',
    'episodes': [_episode_fields(t) for t in played],
  }
  # Compressed: a turn's prompt repeats most of the one before it.
  packed = msgpack.packb(message, unicode_errors='surrogatepass')
  return zlib.compress(packed, level=1)


def _unpacked(data: bytes) -> dict[str, Any]:
  plain = zlib.decompress(data)
  return msgpack.unpackb(plain, unicode_errors='surrogatepass')


def _episode_fields(t: types.Trajectory) -> dict[str, Any]:
  """All but the task, which the other processes know, as plain values."""
  return {
    'won': bool(t.won),
    'truncated': bool(t.truncated),
    'parts': {name: float(value) for name, value in t.parts.items()},
    'turns': [_turn_fields(turn) for turn in t.turns],
  }


def _turn_fields(turn: types.Turn) -> dict[str, Any]:
  return {
    **vars(turn),
    'prompt': turn.prompt.astype(np.int32).tobytes(),
    'reply': turn.reply.astype(np.int32).tobytes(),
    'log_probs': turn.log_probs.astype(np.float32).tobytes(),
    'choices': [[int(token) for token in reply] for reply in turn.choices],
    'valid': bool(turn.valid),
  }


def _trajectory(task: Any, fields: dict[str, Any]) -> types.Trajectory:
  turns = tuple(_turn(turn) for turn in fields['turns'])
  return types.Trajectory(task, **{**fields, 'turns': turns})


def _turn(fields: dict[str, Any]) -> types.Turn:
  return types.Turn(
    **{
      **fields,
      'prompt': np.frombuffer(fields['prompt'], np.int32),
      'reply': np.frombuffer(fields['reply'], np.int32),
      'log_probs': np.frombuffer(fields['log_probs'], np.float32),
      'choices': tuple(tuple(reply) for reply in fields['choices']),
    }
  )
