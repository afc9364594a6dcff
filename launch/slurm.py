"""Slurm: one array job for all runs of a sweep, requeued when preempted.

The script relies on what Slurm does: `--signal` tells the hosts
two minutes before the time is up, preemption tells them with SIGTERM too, and
a run that ends with 75 goes back into the queue.
See https://slurm.schedmd.com/sbatch.html.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import subprocess
from collections.abc import Sequence

from experiments.supervision import RESUME
from launch.job import ROOT, Job, LaunchError, Submission, submit

_SCRIPT = """\
#!/usr/bin/env bash
{directives}
set -euo pipefail
case "$SLURM_ARRAY_TASK_ID" in
{cases}
  *) echo "there is no run $SLURM_ARRAY_TASK_ID" >&2; exit 2 ;;
esac
{exports}
code=0
# srun does not take over the CPUs of sbatch by itself.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \\
  {python} -m launch.host "${{run[@]}}"{distributed} || code=$?
if [ "$code" -eq {resume} ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


@dataclasses.dataclass(frozen=True)
class Slurm:
  """Options of an array job.

  Attributes:
    folder: where the script and what it prints go; gives the job its name.
    time: limit of a run until it is requeued, as Slurm writes it.
    partition, account: '' leaves them to the cluster.
    gpus_per_node: 0 asks for none.
    cpus_per_task: of a host, for its trainer and environment servers.
    notice: seconds between the warning and the end; an update and a
      checkpoint have to fit.
    python: on the nodes, relative to the checkout.
    more: further flags of sbatch.
  """

  folder: str
  time: str = '24:00:00'
  partition: str = ''
  account: str = ''
  gpus_per_node: int = 0
  cpus_per_task: int = 8
  notice: int = 120
  python: str = '.venv/bin/python'
  more: Sequence[str] = ()

  def plan(self, jobs: Sequence[Job], at_once: int = 0) -> Submission:
    """A batch script with an array of all jobs."""
    path = pathlib.Path(self.folder).absolute() / 'slurm.sh'
    return Submission(
      {path: self.script(jobs, at_once)}, [['sbatch', str(path)]]
    )

  def run(self, jobs: Sequence[Job], at_once: int = 0) -> list[Job]:
    """Submits the jobs to Slurm."""
    queue = ['squeue', '--me', '--noheader', f'--name={self._name}']
    queued = subprocess.run(queue, check=True, capture_output=True, text=True)
    if queued.stdout.strip():  # two jobs would spoil each other's run
      raise LaunchError(
        f'jobs called {self._name} are queued or running:\n{queued.stdout}'
        f'They go on by themselves; `scancel --name={self._name}` ends them.'
      )
    logs = pathlib.Path(self.folder) / 'slurm'
    logs.mkdir(parents=True, exist_ok=True)
    return submit(self.plan(jobs, at_once))

  def script(self, jobs: Sequence[Job], at_once: int = 0) -> str:
    """Renders the batch script; jobs have to need the same nodes."""
    first = jobs[0]
    for job in jobs:
      if (job.hosts, job.env) != (first.hosts, first.env):
        raise LaunchError(
          f'{job.name} and {first.name} differ in hosts or env; expected one '
          'array of equal jobs. Make two sweeps of them.'
        )
    flags = self._flags(first, len(jobs), at_once)
    return _SCRIPT.format(
      directives='\n'.join(f'#SBATCH {flag}' for flag in flags),
      cases='\n'.join(
        f'  {i}) run=({shlex.join(job.arguments)}) ;;  # {job.name}'
        for i, job in enumerate(jobs)
      ),
      exports='\n'.join(
        f'export {name}={shlex.quote(value)}'
        for name, value in first.env.items()
      ),
      python=shlex.quote(self.python),
      distributed=' --distributed' if first.hosts > 1 else '',
      resume=RESUME,
    )

  @property
  def _name(self) -> str:
    return pathlib.Path(self.folder).name

  def _flags(self, job: Job, count: int, at_once: int) -> list[str]:
    folder = pathlib.Path(self.folder).absolute()
    flags = [
      f'--job-name={self._name}',
      f'--array=0-{count - 1}' + (f'%{at_once}' if at_once else ''),
      f'--nodes={job.hosts}',
      '--ntasks-per-node=1',
      f'--cpus-per-task={self.cpus_per_task}',
      f'--time={self.time}',
      '--requeue',
      f'--signal=TERM@{self.notice}',
      '--open-mode=append',
      f'--output={folder}/slurm/%A_%a.log',
      f'--chdir={ROOT}',
    ]
    if self.gpus_per_node:
      flags.append(f'--gpus-per-node={self.gpus_per_node}')
    if self.partition:
      flags.append(f'--partition={self.partition}')
    if self.account:
      flags.append(f'--account={self.account}')
    return [*flags, *self.more]
