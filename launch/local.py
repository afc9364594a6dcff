"""Local processes: as many jobs at once as the machine bears."""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence

from experiments import logs, supervision
from launch import servers
from launch.job import Job, Submission

HOST = (sys.executable, '-m', 'launch.host')


@dataclasses.dataclass(frozen=True)
class Local:
  """Jobs on this machine; a job's hosts are processes that share it."""

  def plan(self, jobs: Sequence[Job], at_once: int = 1) -> Submission:
    """The commands of all processes."""
    return Submission(
      commands=[c for job in jobs for c in commands(job, 'PORT')]
    )

  def run(self, jobs: Sequence[Job], at_once: int = 1) -> list[Job]:
    """Plays the jobs here; returns those that failed."""
    return play(jobs, at_once or 1)


def commands(
  job: Job, port: int | str, host: Sequence[str] = HOST
) -> list[list[str]]:
  """One command per process; the first one coordinates at `port`."""
  env = [f'{name}={value}' for name, value in job.env.items()]
  common = [*(['env', *env] if env else []), *host, *job.arguments]
  if job.hosts == 1:
    return [common]
  cluster = [f'--coordinator=127.0.0.1:{port}', f'--num_processes={job.hosts}']
  return [[*common, *cluster, f'--process_id={i}'] for i in range(job.hosts)]


def play(
  jobs: Sequence[Job],
  at_once: int = 1,
  host: Sequence[str] = HOST,
  say: Callable[[str], None] = print,
) -> list[Job]:
  """Runs jobs, as `supervision.play` does; returns those that failed."""
  named = {job.name: job for job in jobs}
  works = [_work(job, host) for job in jobs]
  return [named[work.name] for work in supervision.play(works, at_once, say)]


def _work(job: Job, host: Sequence[str]) -> supervision.Work:
  folder = pathlib.Path(job.run_dir) / 'logs'
  paths = tuple(folder / f'host_{i}.log' for i in range(job.hosts))

  def start() -> list[subprocess.Popen[bytes]]:
    (port,) = servers.free_ports(1)
    started = zip(commands(job, port, host), paths, strict=True)
    return [logs.popen(command, path) for command, path in started]

  return supervision.Work(job.name, start, paths)
