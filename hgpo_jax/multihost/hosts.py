"""Several processes that train one policy: what each does, what all know.

JAX runs one program on the devices of all processes, so that every process must
call the same jitted functions in the same order. What only one process knows
(its episodes, its signals) is told to all before anything depends on it. With
one process these functions cost nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # its store of keys has no public name
from jax.experimental import multihost_utils

# Seconds until the others stop when a process falls silent, and until one that
# ends stops waiting for the others.
_SILENCE, _FAREWELL = 60, 30
_PIECE = 1 << 26  # bytes that all processes give at a time


def initialize(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Joins the other processes; before any other use of JAX.

  Args:
    coordinator: 'host:port' of process 0, the same for all.
    num_processes: how many there are.
    process_id: which one this is, from 0 on.

  Without arguments they are read from a cluster that JAX knows (TPU pods, GKE,
  Slurm, MPI).
  """
  # SIGTERM is the trainer's own affair.
  jax.config.update('jax_enable_preemption_service', False)
  jax.distributed.initialize(
    coordinator,
    num_processes,
    process_id,
    # Elsewhere a process would be given one device of its machine.
    cluster_detection_method='deactivate' if coordinator else None,
    heartbeat_timeout_seconds=_SILENCE,
    shutdown_timeout_seconds=_FAREWELL,
  )


def count() -> int:
  """Returns how many processes there are."""
  return jax.process_count()


def is_first() -> bool:
  """Whether this process is the one that writes metrics and moves folders."""
  return jax.process_index() == 0


def share(size: int) -> range:
  """Returns which of `size` things are this process's own; a run of them."""
  first, n = jax.process_index(), jax.process_count()
  return range(size * first // n, size * (first + 1) // n)


def portion(number: int) -> int:
  """Returns how many of `number` things at once are this process's to hold."""
  return -(-number // jax.process_count())


def wait(name: str) -> None:
  """Waits until all processes are here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def first_says(value: int) -> int:
  """Returns what the first process gives."""
  if jax.process_count() == 1:
    return value
  return int(multihost_utils.broadcast_one_to_all(np.int64(value)))


def any_says(flag: bool) -> bool:
  """Whether a process says so."""
  if jax.process_count() == 1:
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))


def ring(name: str) -> None:
  """Lets every process that asks `rung` know; waits for none of them."""
  _keys().key_value_set(f'{name}/{jax.process_index()}', 'yes', True)


def rung(name: str) -> bool:
  """Whether a process rang that; raises RuntimeError if the first is gone."""
  return bool(_keys().key_value_dir_get(f'{name}/'))


def _keys() -> Any:
  return distributed.global_state.client


def gather(data: bytes) -> list[bytes]:
  """Returns what each process gives, of any length."""
  n = jax.process_count()
  if n == 1:
    return [data]
  sizes = multihost_utils.process_allgather(np.int32(len(data)))
  # Every length is a program of its own, and all of it goes to all devices.
  piece = min(1 << int(sizes.max()).bit_length(), max(_PIECE // n, 1))
  found: list[list[bytes]] = [[] for _ in range(n)]
  for start in range(0, int(sizes.max()), piece):
    part = np.zeros(piece, np.uint8)
    mine = np.frombuffer(data[start : start + piece], np.uint8)
    part[: mine.size] = mine
    for row, of_all in zip(
      found, multihost_utils.process_allgather(part), strict=True
    ):
      row.append(of_all.tobytes())
  return [
    b''.join(row)[:size]
    for row, size in zip(found, sizes.tolist(), strict=True)
  ]


def total(numbers: Mapping[str, float]) -> dict[str, float]:
  """Adds up what the processes counted, by name; some may lack some names."""
  found = [json.loads(x) for x in gather(json.dumps(dict(numbers)).encode())]
  names = {name: None for x in found for name in x}
  return {name: sum(x.get(name, 0) for x in found) for name in names}


def say(text: object) -> None:
  """Prints, once for all processes."""
  if is_first():
    print(text)


def whole(x: Any) -> np.ndarray:
  """Returns an array on the host, also where other processes hold parts."""
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    x = multihost_utils.process_allgather(x, tiled=True)
  return np.asarray(x)
