"""Refuses what will not fit a device, and says what would.

Every change that is named was computed: `memory.predict` of the changed
workload is within the limit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from hgpo_jax import types
from hgpo_jax.model.lora import Lora
from hgpo_jax.model.memory import GIB, Memory, Workload, predict, row_ways
from hgpo_jax.model.remat import POLICIES

# A field's new value in words, and the workload that has it.
Change = tuple[str, Workload]

HALVINGS = 3  # of a size; what needs more is another run
DOUBLINGS = 6  # of the devices


def check(workload: Workload, available: int) -> Memory:
  """Predicts, and refuses what does not fit.

  Args:
    workload: what is to run.
    available: bytes of one device, of `device_memory`.

  Raises: ConfigError that says which changes, each computed, would make it fit.
  """
  memory = predict(workload)
  if memory.total <= available:
    return memory
  cures = _cures(workload, available)
  raise types.ConfigError(
    f'{memory}\ngot {memory.total / GIB:.3f} GiB per device at the peak; '
    f'expected at most the {available / GIB:.3f} GiB that it has. {cures}'
  )


def _cures(workload: Workload, available: int) -> str:
  """Says which change alone would do, else which do together."""

  def need(change: Change) -> int:
    return predict(change[1]).total

  def fits(change: Change) -> bool:
    return need(change) <= available

  alone = [next(filter(fits, kind(workload)), None) for kind in _KINDS]
  named = [change[0] for change in alone if change]
  if named:
    return f'One of these would make it fit: {"; ".join(named)}.'
  changed, words = ('', workload), []
  for kind in _KINDS:
    steps = [changed, *kind(changed[1])]
    best = next(filter(fits, steps), min(steps, key=need))
    if best is changed:  # of no use
      continue
    changed = best
    words.append(best[0])
    if fits(best):
      return f'No single change does; these together would: {"; ".join(words)}.'
  tried = '; '.join(words) or 'none helps'
  return (
    f'No change that was tried makes it fit, not even together: {tried}. Take '
    'a smaller model or larger devices.'
  )


def _remat(workload: Workload) -> Iterator[Change]:
  names = list(POLICIES)
  for name in names[names.index(workload.model.config.remat) + 1 :]:
    yield f'remat={name!r}', _with_config(workload, remat=name)


def _chunk(workload: Workload) -> Iterator[Change]:
  return _halved(workload, 'chunk', 1)


def _micro_batch(workload: Workload) -> Iterator[Change]:
  return _halved(workload, 'train_rows', row_ways(workload.mesh_shape))


def _cache_rows(workload: Workload) -> Iterator[Change]:
  return _halved(workload, 'cache_rows', row_ways(workload.mesh_shape))


def _moments(workload: Workload) -> Iterator[Change]:
  if workload.moments_dtype != 'bfloat16':
    change = dataclasses.replace(workload, moments_dtype='bfloat16')
    yield "moments_dtype='bfloat16'", change


def _fsdp(workload: Workload) -> Iterator[Change]:
  """More devices; every one of them needs a row."""
  mesh = dict(workload.mesh_shape)
  for _ in range(DOUBLINGS):
    mesh = {**mesh, 'fsdp': 2 * mesh['fsdp']}
    rows = {
      field: max(getattr(workload, field), row_ways(mesh))
      for field in ('train_rows', 'cache_rows')
    }
    words = f'mesh.fsdp={mesh["fsdp"]} ({math.prod(mesh.values())} devices)'
    if rows['train_rows'] > workload.train_rows:
      words += f' with train_rows={rows["train_rows"]}'
    yield words, dataclasses.replace(workload, mesh_shape=mesh, **rows)


def _adapters(workload: Workload) -> Iterator[Change]:
  if workload.model.config.lora is None:
    adapters = Lora(rank=16, alpha=32.0)
    yield 'lora.rank=16', _with_config(workload, lora=adapters)


# What changes a run least comes first.
_KINDS = (_remat, _chunk, _micro_batch, _cache_rows, _moments, _fsdp, _adapters)


def _halved(workload: Workload, field: str, least: int) -> Iterator[Change]:
  value = getattr(workload, field)
  for halvings in range(1, HALVINGS + 1):
    size = value >> halvings
    if size >= least:
      words = f'{field}={size} instead of {value}'
      yield words, dataclasses.replace(workload, **{field: size})


def _with_config(workload: Workload, **fields: Any) -> Workload:  # of `Config`
  model = workload.model.replace(**fields)
  return dataclasses.replace(workload, model=model)
