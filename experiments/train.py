"""Trains a policy: `python -m experiments.train --config=<file> [--resume]`.

With `--plan` it says what the run would do and need, and does not start.
Several processes train one policy together where each is told of the others
(launch/README.md). Exit codes: 75 (EX_TEMPFAIL) after SIGTERM, when the same
command with --resume goes on; 1 after an error.
"""

from __future__ import annotations

import pathlib
import re
import sys
import time

from absl import app, flags, logging
from ml_collections import config_flags

from envs.base import EnvError
from experiments import command, planning, supervision
from experiments.configs import base
from hgpo_jax import config as config_lib
from hgpo_jax.config import Config
from hgpo_jax.model.weights import WeightsError
from hgpo_jax.multihost import exchange, hosts
from hgpo_jax.train import checkpoint, evaluate, loop
from hgpo_jax.types import ConfigError

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment.')
_RESUME = flags.DEFINE_bool(
  'resume', False, 'Continue from the newest checkpoint of the run.'
)
_PLAN = flags.DEFINE_bool(
  'plan', False, 'Say what the run would do, without starting it.'
)
_DESCRIBE = flags.DEFINE_bool(
  'describe', False, 'Print every field of the config, without starting it.'
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed', False, 'Join the processes of a TPU pod, GKE, Slurm or MPI.'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, "Join the processes that know this 'host:port' of one."
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'How many they are.', lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Which of them this is, from 0 on.', lower_bound=0
)


def main() -> None:
  """Trains, plans or describes."""
  logging.set_verbosity(logging.WARNING)  # checkpoints are chatty
  draft = _CONFIG.value
  if draft is None and _DESCRIBE.value:
    draft = base.get_config()
  if draft is None:
    raise app.UsageError(
      'no --config: expected the file of an experiment, such as '
      '--config=experiments/configs/alfworld_tiny.py; --describe prints the '
      'fields that --config.<field>=<value> may change.'
    )
  _join()
  config = base.freeze(draft)
  if _DESCRIBE.value:
    print(config_lib.describe(config))
    return
  folder = pathlib.Path(config.run_dir or _default_folder(config))
  if _PLAN.value:
    planned = planning.plan(config, folder)
    print(planned)
    sys.exit(bool(planned.refused))
  start = time.perf_counter()
  try:
    summary = loop.train(
      config,
      folder,
      resume=_RESUME.value,
      prepare=lambda: _make_room(folder),
    )
  except KeyboardInterrupt:
    sys.exit(
      'Stopped. The same command with --resume goes on from what is saved.'
    )
  except exchange.Preempted as error:
    print(f'Preempted: {error}', file=sys.stderr)
    sys.exit(supervision.RESUME)
  results = {k: v for k, v in summary.items() if k in ('warm_start', 'final')}
  if results:
    hosts.say(evaluate.comparison(results))
  hosts.say(
    f'{folder}/summary.json written after {time.perf_counter() - start:.0f} s'
  )


def _join() -> None:
  """Joins the other processes of the run, where there are any."""
  cluster = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
  if _DISTRIBUTED.value and cluster == (None, None, None):
    hosts.initialize()
  elif None not in cluster and not _DISTRIBUTED.value:
    hosts.initialize(*cluster)
  elif cluster != (None, None, None):
    raise app.UsageError(
      f'coordinator={cluster[0]}, num_processes={cluster[1]}, '
      f'process_id={cluster[2]}: '
      'give all three, or --distributed alone on a cluster that JAX knows.'
    )


def _default_folder(config: Config) -> str:
  name = (
    config.cell
    or pathlib.Path(
      config_flags.get_config_filename(flags.FLAGS['config'])
    ).stem
  )
  return f'runs/{name}' + (f'_seed{config.seed}' if config.seed else '')


def _make_room(folder: pathlib.Path) -> None:
  """Makes the run's folder; an older run there becomes `<name>.1`, ...

  What starts a run may have made its `logs` there already.

  Raises: ConfigError where something else is there.
  """
  if hosts.is_first():
    folder = folder.resolve()  # for its name
    folder.mkdir(parents=True, exist_ok=True)
    there = {path.name for path in folder.iterdir()} - {'logs'}
    if there and not _RESUME.value:
      _move_aside(folder)
      folder.mkdir()
  hosts.wait('the folder is there')


def _move_aside(folder: pathlib.Path) -> None:
  if not (folder / 'config.json').exists():
    raise ConfigError(
      f'{folder} is not empty, but holds no run; expected a new folder, or '
      "a run's: give another --config.run_dir."
    )
  taken = [
    int(match[1])
    for path in folder.parent.glob(f'{folder.name}.*')
    if (match := re.fullmatch(r'.*\.(\d+)', path.name))
  ]
  older = folder.with_name(f'{folder.name}.{max(taken, default=0) + 1}')
  folder.rename(older)
  print(f'{folder} held a run: moved to {older} (--resume would continue it)')


if __name__ == '__main__':
  command.run(
    main,
    loop.Interrupted,
    checkpoint.CheckpointError,
    exchange.PlayFailed,
    ConfigError,
    EnvError,
    WeightsError,
  )
