"""TPU VM slices: one run after another, on all hosts of a slice, over ssh.

The slice is there already (`hints` says how it is made); a Spot slice that was
preempted is made again, and the same sweep continues. Hosts outlive the ssh
connection, so stopping is a command of its own.
See https://cloud.google.com/sdk/gcloud/reference/compute/tpus/tpu-vm/ssh.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import subprocess
from collections.abc import Callable, Sequence

from launch.job import Job, LaunchError, Submission


@dataclasses.dataclass(frozen=True)
class TpuPod:
  """Options of a slice.

  Attributes:
    folder: here, where logs are copied to.
    tpu: the slice's name.
    zone: where it is.
    accelerator_type, version: of the hint that makes it.
    spot: whether that is a Spot slice.
    checkout: on the hosts, below home.
    python: there, relative to the checkout.
  """

  folder: str
  tpu: str
  zone: str
  accelerator_type: str = 'v5litepod-16'
  version: str = 'v2-alpha-tpuv5-lite'
  spot: bool = True
  checkout: str = 'hgpo_jax'
  python: str = '.venv/bin/python'

  def plan(self, jobs: Sequence[Job], at_once: int = 0) -> Submission:
    """A command per job, and those that make, fill and return the slice."""
    _check(at_once)
    return Submission(
      commands=[self.start(job) for job in jobs],
      hints={
        'makes the slice': self._create(),
        'packs this checkout': [
          'git', 'archive', '--format=tar.gz', '--output=hgpo_jax.tar.gz',
          'HEAD',
        ],
        'sends it': self._gcloud(
          'scp', 'hgpo_jax.tar.gz', f'{self.tpu}:', '--worker=all'
        ),
        'installs it': self._ssh(
          f'mkdir -p {self.checkout} && '
          f'tar -xzf hgpo_jax.tar.gz -C {self.checkout} && '
          f'cd {self.checkout} && python3 -m venv .venv && '
          f".venv/bin/pip install -e '.[tpu]'"
        ),
        'stops a run, which saves': self.stop(jobs[0]),
        'fetches its logs': self.fetch_logs(jobs[0]),
        'gives the slice back': [
          'gcloud', 'compute', 'tpus', 'queued-resources', 'delete', self.tpu,
          f'--zone={self.zone}', '--force',
        ],
      },
    )  # fmt: skip

  def run(
    self,
    jobs: Sequence[Job],
    at_once: int = 0,
    call: Callable[[Sequence[str]], int] = subprocess.call,
  ) -> list[Job]:
    """Runs one job after another; stops where one does not end well."""
    _check(at_once)
    for number, job in enumerate(jobs):
      print(f'{job.name}: starts on {self.tpu}')
      try:
        code = call(self.start(job))
      except KeyboardInterrupt:
        call(self.stop(job))
        raise
      if code:
        print(f'{job.name}: ended with {code}. {shlex.join(self._state())}')
        return list(jobs[number:])
    return []

  def start(self, job: Job) -> list[str]:
    """Runs a job on all hosts, and waits for it."""
    if job.hosts > 1 and not job.run_dir.startswith('/'):
      raise LaunchError(
        f'{job.name}: its folder is {job.run_dir}; expected a full path on a '
        'file system that its hosts share, as `runs` of the sweep.'
      )
    host = shlex.join([
      *(f'{name}={value}' for name, value in job.env.items()),
      self.python, '-m', 'launch.host', *job.arguments,
      *(['--distributed'] if job.hosts > 1 else []),
    ])  # fmt: skip
    logs = _logs(job)
    return self._ssh(
      f'cd {self.checkout} && mkdir -p {logs} && '
      f'exec env {host} >> {logs}/host_$(hostname).log 2>&1'
    )

  def stop(self, job: Job) -> list[str]:
    """Tells the hosts of a job to stop, on each the one that runs there."""
    name = '$(hostname)' if job.hosts > 1 else '0'  # as `launch.host` has it
    return self._ssh(
      f'cd {self.checkout} && kill -TERM $(cat {_logs(job)}/host_{name}.pid)'
    )

  def fetch_logs(self, job: Job) -> list[str]:
    """Copies a job's logs here; they are on the file system of all hosts."""
    return self._gcloud(
      'scp', '--recurse', f'{self.tpu}:{self._path(job)}/logs',
      str(pathlib.Path(self.folder) / 'logs' / job.name), '--worker=0',
    )  # fmt: skip

  def _create(self) -> list[str]:
    return [
      'gcloud', 'compute', 'tpus', 'queued-resources', 'create', self.tpu,
      f'--node-id={self.tpu}', f'--zone={self.zone}',
      f'--accelerator-type={self.accelerator_type}',
      f'--runtime-version={self.version}', *(['--spot'] if self.spot else []),
    ]  # fmt: skip

  def _state(self) -> list[str]:
    return self._gcloud('describe', self.tpu)

  def _path(self, job: Job) -> str:
    """A job's folder as scp sees it, from home."""
    return str(pathlib.PurePosixPath(self.checkout) / job.run_dir)

  def _ssh(self, command: str) -> list[str]:
    return self._gcloud('ssh', self.tpu, '--worker=all', f'--command={command}')

  def _gcloud(self, verb: str, *more: str) -> list[str]:
    return [
      'gcloud', 'compute', 'tpus', 'tpu-vm', verb, *more, f'--zone={self.zone}',
    ]  # fmt: skip


def _check(at_once: int) -> None:
  if at_once > 1:
    raise LaunchError(
      f'--jobs_at_once is {at_once}; expected 1: a run takes the whole slice.'
    )


def _logs(job: Job) -> str:
  return shlex.quote(f'{job.run_dir}/logs')
