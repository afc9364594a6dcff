"""Several processes that train one policy: what each does, what all know.

JAX runs one program on the devices of all processes, so that every process must
call the same jitted functions in the same order. What only one process knows
(its episodes, its signals) is sent to all before anything depends on it. With
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

_HEARTBEAT_TIMEOUT = 60  # seconds until the others stop when a process hangs
_SHUTDOWN_TIMEOUT = 30  # seconds that a process which ends waits for the others
_PIECE = 1 << 26  # bytes that all processes exchange at a time


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
  # The trainer handles SIGTERM itself.
  jax.config.update('jax_enable_preemption_service', False)
  jax.distributed.initialize(
    coordinator,
    num_processes,
    process_id,
    # Cluster detection would give a process one device of its machine.
    cluster_detection_method='deactivate' if coordinator else None,
    heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT,
    shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT,
  )


def count() -> int:
  """Returns how many processes there are."""
  return jax.process_count()


def is_first() -> bool:
  """Whether this process is the one that writes metrics and moves folders."""
  return jax.process_index() == 0


def share(size: int) -> range:
  """Returns which of `size` items are this process's own: one range."""
  first, n = jax.process_index(), jax.process_count()
  return range(size * first // n, size * (first + 1) // n)


def portion(number: int) -> int:
  """Returns how many of `number` rows this process holds at once."""
  return -(-number // jax.process_count())


def wait(name: str) -> None:
  """Waits until all processes are here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def broadcast_from_first(value: int) -> int:
  """Returns the first process's value, in all processes."""
  if jax.process_count() == 1:
    return value
  return int(multihost_utils.broadcast_one_to_all(np.int64(value)))


def any_process(flag: bool) -> bool:
  """Whether the flag is true in at least one process."""
  if jax.process_count() == 1:
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))


def set_flag(name: str) -> None:
  """Sets a flag that all processes can read; waits for none of them."""
  _key_value_store().key_value_set(f'{name}/{jax.process_index()}', 'yes', True)


def flag_is_set(name: str) -> bool:
  """Whether a process set it; raises RuntimeError if the first one is gone."""
  return bool(_key_value_store().key_value_dir_get(f'{name}/'))


def _key_value_store() -> Any:
  return distributed.global_state.client


def gather(data: bytes) -> list[bytes]:
  """Returns the bytes of each process, of any length, in all processes."""
  n = jax.process_count()
  if n == 1:
    return [data]
  sizes = multihost_utils.process_allgather(np.int32(len(data)))
  # XLA compiles a program for every length; all of it goes to all devices.
  piece = min(1 << int(sizes.max()).bit_length(), max(_PIECE // n, 1))
  parts: list[list[bytes]] = [[] for _ in range(n)]
  for start in range(0, int(sizes.max()), piece):
    own = np.zeros(piece, np.uint8)
    used = np.frombuffer(data[start : start + piece], np.uint8)
    own[: used.size] = used
    for row, part in zip(
      parts, multihost_utils.process_allgather(own), strict=True
    ):
      row.append(part.tobytes())
  return [
    b''.join(row)[:size]
    for row, size in zip(parts, sizes.tolist(), strict=True)
  ]


def total(numbers: Mapping[str, float]) -> dict[str, float]:
  """Adds up the processes' numbers by name; some may lack some names."""
  counts = [json.loads(x) for x in gather(json.dumps(dict(numbers)).encode())]
  names = {name: None for count in counts for name in count}
  return {name: sum(count.get(name, 0) for count in counts) for name in names}


def say(text: object) -> None:
  """Prints in the first process only."""
  if is_first():
    print(text)


def whole(x: jax.Array | np.ndarray) -> np.ndarray:
  """Returns an array on the host, also where other processes hold parts."""
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    x = multihost_utils.process_allgather(x, tiled=True)
  return np.asarray(x)
