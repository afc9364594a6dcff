r"""Runs one host's part of a job: its environment servers and its trainer.

  python -m launch.host --config=experiments/configs/alfworld_tiny.py \
    --config.run_dir=runs/tiny --env_servers=2

Every back end starts this on every host, and only decides where. It starts the
servers and waits until they serve, starts the trainer with `--resume`, starts
servers that die again, passes SIGTERM and Ctrl-C on, and starts the trainer
again when that was preempted but this host was not told to stop. Exit codes: 0
when the run is finished, 75 when it was told to stop and the same command will
go on, else the trainer's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence

from absl import app, flags
from ml_collections import config_flags

from experiments import command, logs
from experiments.configs import base
from experiments.supervision import RESUME, Signals
from hgpo_jax.types import ConfigError
from launch import servers
from launch.job import LaunchError

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment.')
_ENV_SERVERS = flags.DEFINE_integer(
  'env_servers', 0, 'Environment servers on this host.', lower_bound=0
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed', False, 'One of the hosts of a cluster that JAX knows.'
)
_COORDINATOR = flags.DEFINE_string('coordinator', '', 'Or told: host:port,')
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', 1, 'of so many,')
_PROCESS_ID = flags.DEFINE_integer('process_id', 0, 'this one.')
flags.mark_flag_as_required('config')

TRAINER = (sys.executable, '-m', 'experiments.train')
_LOOK_SECONDS = 0.2
_SERVE_SECONDS = 900.0  # the largest catalogue is read in minutes
# A trainer that is preempted again and again is left to the scheduler.
_MOST_RESTARTS = 20


def main() -> None:
  """Runs the host's part; exits as the module says."""
  c = base.freeze(_CONFIG.value)
  if not c.run_dir:
    raise app.UsageError('no --config.run_dir: expected the folder of the run.')
  folder, name = pathlib.Path(c.run_dir), _name()
  if (folder / 'summary.json').exists():
    print(f'{folder} is finished')
    return
  path = folder / 'logs'
  path.mkdir(parents=True, exist_ok=True)
  with (
    _claimed(f'hgpo_jax:{folder.resolve()}:{name}') as claim,
    Signals() as signals,
    servers.lifeline() as (alive, held),
    servers.serving(
      c.env.world,
      c.env.chosen,
      _ENV_SERVERS.value,
      lambda number: path / f'env_{name}_{number}.log',
      alive,
    ) as started,
  ):
    (path / f'host_{name}.pid').write_text(str(os.getpid()))
    servers.await_healthy(started, _SERVE_SECONDS, lambda: signals.stop)
    log = path / f'trainer_{name}.log'
    trainer = _trainer([server.address for server in started])
    code = supervise(trainer, log, started, signals, (*claim, held))
  if code not in (0, RESUME):
    print(logs.tail(log, lines=20))
  sys.exit(code)


def supervise(
  command: Sequence[str],
  log: pathlib.Path,
  started: Sequence[servers.EnvServer],
  signals: Signals,
  pass_fds: Sequence[int] = (),
) -> int:
  """Runs a trainer to its end; returns the exit code for the scheduler.

  Args:
    command: the trainer's; it can be started again at any time.
    log: what it writes to.
    started: servers to be kept alive meanwhile.
    signals: those that this process gets.
    pass_fds: files that the trainer inherits.
  """
  for _ in range(1 + _MOST_RESTARTS):
    if signals.stop:
      return RESUME
    _say(f'the trainer starts; it writes to {log}')
    process = logs.popen(command, log, pass_fds=pass_fds)
    code = _watch(process, started, signals)
    _say(f'the trainer ended with {code}')
    if code == 0:
      return 0
    if signals.stop:
      return RESUME
    if code != RESUME:
      return code if code > 0 else 128 - code  # as a shell says a signal
  return RESUME


def _watch(
  process: subprocess.Popen[bytes],
  started: Sequence[servers.EnvServer],
  signals: Signals,
) -> int:
  """Waits for the trainer, passes signals on, and revives servers."""
  stopping = False
  while True:
    with contextlib.suppress(subprocess.TimeoutExpired):
      return process.wait(_LOOK_SECONDS)
    if signals.kill:
      process.kill()
    elif signals.stop and not stopping:
      _say('told to stop: the trainer saves what it has')
      process.terminate()
      stopping = True
    for server in started:
      if server.revive():
        _say(f'{server.address} had died and was started again')


def _trainer(addresses: Sequence[str]) -> list[str]:
  """The trainer's command: our flags for it, and what only this host knows."""
  own = [arg for arg in sys.argv[1:] if arg.startswith('--config')]
  if loose := [arg for arg in own if '=' not in arg]:
    raise app.UsageError(f'{loose[0]}: expected {loose[0]}=<value>.')
  if addresses:
    own.append(f'--config.env.addresses={tuple(addresses)}')
  if _DISTRIBUTED.value:
    own.append('--distributed')
  elif _COORDINATOR.value:
    own += [
      f'--coordinator={_COORDINATOR.value}',
      f'--num_processes={_NUM_PROCESSES.value}',
      f'--process_id={_PROCESS_ID.value}',
    ]
  return [*TRAINER, *own, '--resume']


def _name() -> str:
  """This host's, for its logs: its number where the scheduler says one."""
  if _COORDINATOR.value or not _DISTRIBUTED.value:
    return str(_PROCESS_ID.value)
  for variable in ('SLURM_PROCID', 'JOB_COMPLETION_INDEX'):
    if variable in os.environ:
      return os.environ[variable]
  return socket.gethostname()


@contextlib.contextmanager
def _claimed(name: str) -> Iterator[tuple[int, ...]]:
  """Holds a name of this machine; two trainers would spoil each other's run.

  A trainer that outlives us inherits the claim. It is an abstract socket of
  Linux, which needs no file and cannot be left behind.
  """
  if sys.platform != 'linux':
    yield ()
    return
  with socket.socket(socket.AF_UNIX) as claim:
    try:
      # Addresses are short, paths need not be.
      claim.bind('\0' + hashlib.sha256(name.encode()).hexdigest())
    except OSError as error:
      raise LaunchError(
        f'{name} runs on this machine already. Wait for it or stop it.'
      ) from error
    yield (claim.fileno(),)


def _say(text: str) -> None:
  with contextlib.suppress(OSError):  # nobody may listen any more
    print(text, flush=True)


if __name__ == '__main__':
  command.run(main, ConfigError, LaunchError)
