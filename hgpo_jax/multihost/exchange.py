"""The episodes that each process played -> those of all, in every process.

Every process then packs all of them and computes all advantages: mini-batches
are drawn from whole turns, and some estimators look at the whole batch.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Sequence

from hgpo_jax import types
from hgpo_jax.multihost import hosts


class Preempted(Exception):
  """A process got SIGTERM; the episodes that it was playing are lost."""


class PlayFailed(Exception):
  """Episodes failed in some processes; the text says where and how."""


def exchanged(
  played: Sequence[types.Trajectory], failure: Exception | None = None
) -> list[types.Trajectory]:
  """Gives every process the episodes of all.

  Args:
    played: this process's own, of its `hosts.share` of the tasks.
    failure: what ended them early, in this process.

  Returns: all trajectories, in the order of the tasks, in every process.
  Raises, in all processes alike:
    Preempted: it is the `failure` of one of them.
    PlayFailed: one of them has another failure. A single process raises the
      failure itself.
  """
  if hosts.count() == 1:
    if failure is not None:
      raise failure
    return list(played)
  preempted = isinstance(failure, Preempted)
  text = f'{type(failure).__name__}: {failure}' if failure else ''
  # Pickle: the processes of a run trust each other. Compressed: a turn's prompt
  # repeats most of the one before it.
  own = zlib.compress(pickle.dumps((played, preempted, text)), level=1)
  of_all = [pickle.loads(zlib.decompress(x)) for x in hosts.gather(own)]
  if any(preempted for _, preempted, _ in of_all):
    raise Preempted('SIGTERM in one of the processes') from failure
  errors = [
    f'process {number}: {text}'
    for number, (_, _, text) in enumerate(of_all)
    if text
  ]
  if errors:
    raise PlayFailed('; '.join(errors)) from failure
  return [trajectory for episodes, _, _ in of_all for trajectory in episodes]
