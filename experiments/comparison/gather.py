"""Finished runs, read from their folders."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from envs import registry
from envs.base import Task
from experiments.comparison.cells import CompareError
from experiments.configs import base
from hgpo_jax import config as config_lib
from hgpo_jax.config import Config

START, FINAL = 'warm_start', 'final'  # the phases of a summary


class Run(NamedTuple):
  """One finished run.

  Attributes:
    method, seed: whose.
    config, summary: what the run wrote.
    success: `[T]`, share of an iteration's episodes that were won.
  """

  method: str
  seed: int
  config: Config
  summary: Mapping[str, Any]
  success: np.ndarray

  @property
  def episodes(self) -> int:
    """Episodes per iteration."""
    return self.config.rollout.groups * self.config.rollout.group_size

  @property
  def temperature(self) -> str:
    """At which the games were played; the first, where there are several."""
    return str(self.config.eval.temperatures[0])

  def outcomes(self, phase: str, split: str) -> np.ndarray:
    """Returns `[G]`, how often each game was won, over the sampler's seeds."""
    result = self.summary[phase][split][self.temperature]
    won = np.array([int(x) for x in result['outcomes']], float)
    return won.reshape(len(self.config.eval.seeds), -1).mean(0)


def read(
  folder: pathlib.Path, methods: Collection[str]
) -> dict[str, dict[int, Run]]:
  """Reads the finished runs of some methods: method -> seed -> run.

  Raises: CompareError where two of them have different budgets.
  """
  found: dict[str, dict[int, Run]] = {}
  runs = []
  for path in folder.glob('*_seed*/summary.json'):
    name = re.fullmatch(r'(.+)_seed(\d+)', path.parent.name)
    if name and name[1] in methods:
      runs.append(_read(name[1], int(name[2]), path.parent))
  runs.sort(key=lambda run: (run.method, run.seed))
  for run in runs:
    found.setdefault(run.method, {})[run.seed] = run
  for run in runs[1:]:
    _check_budget(runs[0], run)
  return found


def _read(method: str, seed: int, folder: pathlib.Path) -> Run:
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return Run(
    method,
    seed,
    base.freeze(json.loads((folder / 'config.json').read_text())),
    json.loads((folder / 'summary.json').read_text()),
    np.array([json.loads(line)['rollout/success'] for line in lines]),
  )


def _check_budget(one: Run, other: Run) -> None:
  differences = config_lib.differences(
    one.config.to_dict(),
    other.config.to_dict(),
    config_lib.same_budget,
    one.config,
  )
  if differences:
    raise CompareError(
      f'{one.method} seed {one.seed} and {other.method} seed {other.seed} have '
      f'different budgets: {"; ".join(differences)}. Expected equal ones: move '
      'the folder of one of them away.'
    )


def columns(run: Run, split: str) -> dict[str, np.ndarray]:
  """Returns kind of task -> which of a split's games `[G]` are of it."""
  env = run.config.env
  world = registry.make_world(env.world, env.chosen)
  games = run.outcomes(FINAL, split).size
  kinds = np.array([world.kind(Task(split, i)) for i in range(games)])
  return {str(kind): kinds == kind for kind in sorted(set(kinds))}


def won(runs: Iterable[Run], phase: str, split: str) -> np.ndarray:
  """Returns the outcomes of a method's runs, `[S, G]`."""
  return np.stack([run.outcomes(phase, split) for run in runs])


def paired(
  one: Mapping[int, Run], other: Mapping[int, Run], split: str
) -> tuple[Sequence[int], np.ndarray]:
  """Final outcomes of one method minus another's, on seeds that both have.

  Returns: the seeds, and `[S, G]`.
  """
  seeds = sorted(one.keys() & other.keys())
  if not seeds:
    return seeds, np.zeros((0, 0))
  mine = won((one[s] for s in seeds), FINAL, split)
  return seeds, mine - won((other[s] for s in seeds), FINAL, split)
