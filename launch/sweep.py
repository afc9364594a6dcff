"""Runs a sweep: `python -m launch.sweep FILE [--backend=local] [--dry_run]`.

Finished runs (those with a summary.json) are left alone, others start or go on
from what they have saved: to continue a sweep is to give its command again. See
launch/sweep_file.py for the file and launch/README.md for the back ends.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence
from subprocess import SubprocessError
from typing import Protocol

import jax
import ml_collections
from absl import app, flags

from experiments import command, folders, planning, supervision
from experiments.configs import base
from hgpo_jax import config as config_lib
from hgpo_jax.config import Config
from hgpo_jax.train import build, config_checks
from hgpo_jax.types import ConfigError
from launch import gke, local, slurm, sweep_file, tpu_pod
from launch.job import Job, LaunchError, Submission


class Backend(Protocol):
  """Where jobs run; see `Submission` for what `--dry_run` prints."""

  def plan(self, jobs: Sequence[Job], at_once: int) -> Submission:
    """Says what `run` would do."""

  def run(self, jobs: Sequence[Job], at_once: int) -> list[Job]:
    """Runs jobs, or hands them over; returns those that failed."""


BACKENDS: dict[str, Callable[..., Backend]] = {
  'slurm': slurm.Slurm,
  'gke': gke.Gke,
  'tpu_pod': tpu_pod.TpuPod,
}

_BACKEND = flags.DEFINE_enum(
  'backend', 'local', ['local', *BACKENDS], 'Where the runs go.'
)
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Print the files and commands, and run nothing.'
)
_JOBS_AT_ONCE = flags.DEFINE_integer(
  'jobs_at_once', 0, 'Default: one locally, elsewhere all.', lower_bound=0
)


def main(argv: Sequence[str]) -> None:
  """Runs the sweep file that is named."""
  if len(argv) != 2:
    raise app.UsageError(
      'expected one sweep file, such as launch/sweeps/tiny.toml'
    )
  jax.config.update('jax_platforms', 'cpu')  # the runs have the accelerator
  supervision.end_like_ctrl_c()  # and the runs save what they have
  try:
    sweep = sweep_file.read(argv[1])
    waiting = unfinished(sweep.jobs)
    backend = make_backend(_BACKEND.value, sweep)
    say = f'{len(waiting)} of {len(sweep.jobs)} runs to do'
    if _DRY_RUN.value:
      print(f'# {say}')
      if waiting:
        print(backend.plan(waiting, _JOBS_AT_ONCE.value))
      return
    print(say)
    failed = backend.run(waiting, _JOBS_AT_ONCE.value) if waiting else []
  except KeyboardInterrupt:
    sys.exit('Stopped. The same command goes on from what is saved.')
  except (LaunchError, ConfigError, OSError, SubprocessError) as error:
    sys.exit(f'{type(error).__name__}: {error}')
  if failed:
    names = ', '.join(job.name for job in failed)
    sys.exit(f'Not finished: {names}. The same command tries them again.')


def make_backend(name: str, sweep: sweep_file.Sweep) -> Backend:
  """Builds a back end from the sweep file's table of its name."""
  if name == 'local':
    return local.Local()
  options = dict(sweep.options.get(name, {}))
  fields = dataclasses.fields(BACKENDS[name])  # type: ignore[arg-type]
  known = {field.name for field in fields} - {'folder'}
  needed = {f.name for f in fields if f.default is dataclasses.MISSING}
  if wrong := sorted(options.keys() - known):
    raise LaunchError(
      f'[{name}] has {wrong[0]!r}; expected of {", ".join(sorted(known))}.'
    )
  if missing := sorted(needed - options.keys() - {'folder'}):
    raise LaunchError(f'[{name}] has no {missing[0]}; expected it in the file.')
  return BACKENDS[name](folder=f'runs/launched/{sweep.name}', **options)


def unfinished(jobs: Iterable[Job]) -> list[Job]:
  """Returns the jobs that have no summary; checks all of them.

  Raises: as `load` and `folders.unfinished`.
  """
  of_folder = {pathlib.Path(job.run_dir): job for job in jobs}
  expected = {x: load(job).to_dict() for x, job in of_folder.items()}
  return [of_folder[x] for x in folders.unfinished(expected, 'other `runs`')]


def load(job: Job) -> Config:
  """Returns a job's config with its overrides, as `experiments.train` sees it.

  Raises: LaunchError where there is no such variant or field, or a value is of
    another type; ConfigError where there is no such file, or it cannot work.
  """
  try:
    draft = _config(job)
    known = [leaf.name for leaf in config_lib.leaves(base.freeze(draft))]
    for field, value in {**job.overrides, base.RUN_DIR: job.run_dir}.items():
      if field not in known:
        raise LaunchError(f'{job.name}: {config_lib.unknown(field, known)}')
      try:
        draft.update_from_flattened_dict({field: value})
      except (TypeError, ValueError) as error:
        raise LaunchError(
          f'{job.name}: {field} = {value!r}: {error}'
        ) from error
    config = base.freeze(draft)
    config_checks.check(config, _least_mesh)
    if -1 not in (config.mesh.data, config.mesh.fsdp, config.mesh.tensor):
      planning.check_devices(config)
  except ConfigError as error:
    raise ConfigError(f'{job.name}: {error}') from error
  return config


def _least_mesh(config: Config) -> jax.sharding.AbstractMesh:
  """The config's mesh where -1 is one device: those to come are unknown."""
  mesh = config.mesh
  sizes = {
    axis: 1 if size == -1 else size
    for axis, size in dataclasses.asdict(mesh).items()
  }
  return build.planned_mesh(
    dataclasses.replace(config, mesh=dataclasses.replace(mesh, **sizes))
  )


def _config(job: Job) -> ml_collections.ConfigDict:
  path, _, variant = job.config.partition(':')
  module = command.load(path)
  try:
    return module.get_config(*([variant] if variant else []))
  except (TypeError, ValueError) as error:
    raise LaunchError(f'{job.name}: {job.config}: {error}') from error


if __name__ == '__main__':
  app.run(main)
