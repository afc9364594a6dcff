"""Local processes: as many jobs at once as the machine bears."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from launch import logs, servers
from launch.job import RESUME, Job, Plan
from launch.signals import Signals

HOST = (sys.executable, '-m', 'launch.host')
_LOOK_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Local:
  """Jobs on this machine; a job's hosts are processes that share it."""

  def plan(self, jobs: Sequence[Job], at_once: int = 1) -> Plan:
    return Plan(commands=[c for job in jobs for c in commands(job, 'PORT')])

  def run(self, jobs: Sequence[Job], at_once: int = 1) -> list[Job]:
    return play(jobs, at_once or 1)


def commands(
  job: Job, port: int | str, host: Sequence[str] = HOST
) -> list[list[str]]:
  """One command per process; the first one coordinates at `port`."""
  env = [f'{name}={value}' for name, value in job.env.items()]
  common = [*(['env', *env] if env else []), *host, *job.arguments]
  if job.hosts == 1:
    return [common]
  told = [f'--coordinator=127.0.0.1:{port}', f'--num_processes={job.hosts}']
  return [[*common, *told, f'--process_id={i}'] for i in range(job.hosts)]


@dataclasses.dataclass
class _Running:
  """A job's processes."""

  job: Job
  processes: list[subprocess.Popen[bytes]]
  start: float

  @property
  def codes(self) -> list[int | None]:
    return [process.poll() for process in self.processes]

  def tell(self, number: int) -> None:
    for process in self.processes:
      if process.poll() is None:
        process.send_signal(number)


def play(
  jobs: Sequence[Job],
  at_once: int = 1,
  host: Sequence[str] = HOST,
  say: Callable[[str], None] = print,
) -> list[Job]:
  """Runs jobs, `at_once` of them together.

  A job that fails does not stop the others. When this is interrupted, all of
  them are stopped gently, which may take an iteration; a second Ctrl-C kills.

  Returns: the jobs that failed.
  Raises: KeyboardInterrupt when it was interrupted, and nothing runs any more.
  """
  waiting, failed = collections.deque(jobs), []
  running: list[_Running] = []
  with Signals() as signals:
    try:
      while (waiting or running) and not signals.stop:
        while waiting and len(running) < at_once:
          running.append(_start(waiting.popleft(), host))
          say(f'{running[-1].job.name}: logs in {_logs(running[-1].job)}')
        time.sleep(_LOOK_SECONDS)
        for entry in _ended(running):
          running.remove(entry)
          say(_told(entry))
          if any(entry.codes):
            failed.append(entry.job)
    finally:
      _stop(running, signals, say)
    if signals.stop:
      raise KeyboardInterrupt
  return failed


def _start(job: Job, host: Sequence[str]) -> _Running:
  (port,) = servers.free_ports(1)
  return _Running(
    job,
    [
      logs.popen(command, _logs(job) / f'host_{number}.log')
      for number, command in enumerate(commands(job, port, host))
    ],
    time.perf_counter(),
  )


def _ended(running: Sequence[_Running]) -> Iterator[_Running]:
  """Jobs all of whose processes have ended; where one failed, all have to."""
  for entry in list(running):
    codes = entry.codes
    if None not in codes:
      yield entry
    elif any(codes):
      entry.tell(signal.SIGTERM)


def _stop(
  running: Sequence[_Running], signals: Signals, say: Callable[[str], None]
) -> None:
  """Ends what runs: gently, and after another Ctrl-C at once."""
  if running:
    say(f'stopping {", ".join(x.job.name for x in running)}: they save')
  told = None
  while any(None in entry.codes for entry in running):
    # Only a host that was told to stop takes SIGINT for the second Ctrl-C.
    number = signal.SIGINT if signals.kill and told else signal.SIGTERM
    if number != told:
      for entry in running:
        entry.tell(number)
      told = number
    time.sleep(_LOOK_SECONDS)


def _told(entry: _Running) -> str:
  """How a job ended: if badly, by what failed first, as far as can be told."""
  if not any(entry.codes):
    seconds = time.perf_counter() - entry.start
    return f'{entry.job.name}: finished, {seconds:.0f} s'
  found = [(code, i) for i, code in enumerate(entry.codes) if code]
  code, number = min(found, key=lambda x: x[0] == RESUME)
  tail = logs.tail(_logs(entry.job) / f'host_{number}.log')
  return f'{entry.job.name}: failed with {code}; {tail}'


def _logs(job: Job) -> pathlib.Path:
  return pathlib.Path(job.run_dir) / 'logs'
