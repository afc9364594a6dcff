"""Episodes that each process played for itself -> those of all, everywhere.

Every process then packs and judges all of them alike: whole turns are what
mini-batches are drawn from, and some estimators look at the whole batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import numpy as np

from hgpo_jax import types
from hgpo_jax.multihost import hosts


class Preempted(Exception):
  """A process was told to stop soon; what it was playing is given up."""


class PlayFailed(Exception):
  """Episodes failed in some processes; the text says where and how."""


def exchanged(
  play: Callable[[range], Sequence[types.Trajectory]], tasks: Sequence[Any]
) -> list[types.Trajectory]:
  """Lets each process play its share of `tasks`.

  Args:
    play: numbers of episodes -> their trajectories.
    tasks: the start state of every episode.

  Returns: all trajectories, in the order of `tasks`, in every process.
  Raises, in all processes alike:
    Preempted: `play` raised it in one of them.
    PlayFailed: `play` raised something else. A process that is alone raises
      that itself.
  """
  own = hosts.share(len(tasks))
  if hosts.count() == 1:
    return list(play(own))
  failure: Exception | None = None
  played: Sequence[types.Trajectory] = ()
  try:
    played = play(own)
  except Exception as error:  # of any kind: the others wait for us
    failure = error
  said = [_unpacked(x) for x in hosts.gather(_packed(played, failure))]
  if any(message['preempted'] for message in said):
    raise Preempted('told to stop') from failure
  failed = [
    f'process {number}: {message["error"]}'
    for number, message in enumerate(said)
    if message['error']
  ]
  if failed:
    raise PlayFailed('; '.join(failed)) from failure
  found = [episode for message in said for episode in message['episodes']]
  return [
    _trajectory(task, fields) for task, fields in zip(tasks, found, strict=True)
  ]


def _packed(
  played: Sequence[types.Trajectory], failure: Exception | None
) -> bytes:
  message = {
    'preempted': isinstance(failure, Preempted),
    'error': f'{type(failure).__name__}: {failure}' if failure else '',
    'episodes': [_episode_fields(t) for t in played],
  }
  # A turn's prompt repeats most of the one before it.
  packed = msgpack.packb(message, unicode_errors='surrogatepass')
  return zlib.compress(packed, level=1)


def _unpacked(data: bytes) -> dict[str, Any]:
  plain = zlib.decompress(data)
  return msgpack.unpackb(plain, unicode_errors='surrogatepass')


def _episode_fields(t: types.Trajectory) -> dict[str, Any]:
  """All but the task, which the others know, as plain values."""
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
