"""GKE: a JobSet per run, on the hosts of one TPU slice each, as xpk makes them.

A pod that was preempted (its node goes away, or it ends with 75) fails its Job
by the pod failure policy, and such a Job restarts the JobSet however often;
other failures restart it `max_restarts` times. A run that is finished ends with
0 at once, wherever it is started again.
See https://jobset.sigs.k8s.io and
https://cloud.google.com/kubernetes-engine/docs/how-to/tpus.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import yaml

from experiments.supervision import RESUME
from launch.job import Job, LaunchError, Submission, submit

# Pods are called <name>-hosts-0-<i>-<5 letters>, in at most 63.
_MOST_LETTERS = 40


@dataclasses.dataclass(frozen=True)
class Gke:
  """Options of the JobSets.

  Attributes:
    folder: where the manifest goes; its name stands before those of runs.
    image: container with this checkout as working directory, and its packages.
    accelerator: GKE's name of the TPU, such as 'tpu-v5-lite-podslice'.
    topology: of the slice, such as '4x4'.
    claim: PersistentVolumeClaim that all hosts may write to (Filestore, ...).
    mount: where it is seen; the runs are below.
    chips_per_host: of a node of that type.
    max_restarts: after failures that were no preemption.
    grace: seconds from SIGTERM to SIGKILL; Spot nodes give less.
    spot: whether the nodes are Spot VMs.
    queue: Kueue's LocalQueue; '' is none.
    python: in the container.
  """

  folder: str
  image: str
  accelerator: str
  topology: str
  claim: str
  mount: str = '/runs'
  chips_per_host: int = 4
  max_restarts: int = 3
  grace: int = 300
  spot: bool = False
  queue: str = ''
  python: str = 'python'

  def plan(self, jobs: Sequence[Job], at_once: int = 0) -> Submission:
    """A manifest of all jobs, to be applied at once."""
    if at_once:
      raise LaunchError(
        '--jobs_at_once is for other back ends: give `queue`, and let Kueue '
        'hold back what has no place.'
      )
    path = pathlib.Path(self.folder) / 'jobsets.yaml'
    text = yaml.safe_dump_all(
      [self.manifest(job) for job in jobs], sort_keys=False
    )
    prefix = self._name(jobs[0])
    return Submission(
      {path: text},
      [['kubectl', 'apply', '-f', str(path)]],
      {
        'how they do': ['kubectl', 'get', 'jobsets'],
        'what a host says': ['kubectl', 'logs', f'job/{prefix}-hosts-0'],
        'a failed one goes on after': ['kubectl', 'delete', 'jobset', prefix],
      },
    )

  def run(self, jobs: Sequence[Job], at_once: int = 0) -> list[Job]:
    """Submits the jobs to the cluster."""
    return submit(self.plan(jobs, at_once))

  def manifest(self, job: Job) -> dict[str, Any]:
    """Returns a JobSet as plain values."""
    self._check(job)
    labels = {'kueue.x-k8s.io/queue-name': self.queue} if self.queue else {}
    return {
      'apiVersion': 'jobset.x-k8s.io/v1alpha2',
      'kind': 'JobSet',
      'metadata': {
        'name': self._name(job),
        'labels': {'app': 'hgpo-jax', **labels},
        'annotations': {
          # All pods of a slice in one node pool, and nobody else there.
          'alpha.jobset.sigs.k8s.io/exclusive-topology': (
            'cloud.google.com/gke-nodepool'
          )
        },
      },
      'spec': {
        'failurePolicy': {
          'maxRestarts': self.max_restarts,
          'rules': [
            {
              'name': 'preempted',
              'action': 'RestartJobSetAndIgnoreMaxRestarts',
              'onJobFailureReasons': ['PodFailurePolicy'],
            }
          ],
        },
        'replicatedJobs': [
          {'name': 'hosts', 'replicas': 1, 'template': {'spec': self._job(job)}}
        ],
      },
    }

  def _job(self, job: Job) -> dict[str, Any]:
    """A batch/v1 JobSpec: one pod per host, and all fail together."""
    gone = {'type': 'DisruptionTarget', 'status': 'True'}
    saved = {
      'containerName': 'host',
      'operator': 'In',
      'values': [RESUME],
    }
    return {
      'parallelism': job.hosts,
      'completions': job.hosts,
      'completionMode': 'Indexed',
      'backoffLimit': 0,
      'podFailurePolicy': {
        'rules': [
          {'action': 'FailJob', 'onPodConditions': [gone]},
          {'action': 'FailJob', 'onExitCodes': saved},
        ]
      },
      'template': {'spec': self._pod(job)},
    }

  def _pod(self, job: Job) -> dict[str, Any]:
    prefix = 'cloud.google.com/gke'
    spot = {f'{prefix}-spot': 'true'} if self.spot else {}
    own = ['--distributed'] if job.hosts > 1 else []
    return {
      'restartPolicy': 'Never',
      'hostNetwork': True,
      'dnsPolicy': 'ClusterFirstWithHostNet',
      'terminationGracePeriodSeconds': self.grace,
      'nodeSelector': {
        f'{prefix}-tpu-accelerator': self.accelerator,
        f'{prefix}-tpu-topology': self.topology,
        **spot,
      },
      'tolerations': [
        {'key': key, 'operator': 'Exists', 'effect': 'NoSchedule'}
        for key in ('google.com/tpu', *spot)
      ],
      'containers': [
        {
          'name': 'host',
          'image': self.image,
          'command': [self.python, '-m', 'launch.host'],
          'args': [*job.arguments, *own],
          'env': [{'name': k, 'value': v} for k, v in job.env.items()],
          'resources': {'limits': {'google.com/tpu': self.chips_per_host}},
          'volumeMounts': [{'name': 'runs', 'mountPath': self.mount}],
        }
      ],
      'volumes': [
        {'name': 'runs', 'persistentVolumeClaim': {'claimName': self.claim}}
      ],
    }

  def _name(self, job: Job) -> str:
    """A DNS label: runs are called `...-1.5b-...`."""
    name = f'{pathlib.Path(self.folder).name}-{job.name}'.lower()
    name = re.sub('[^a-z0-9]+', '-', name).strip('-')
    if len(name) > _MOST_LETTERS or not name[:1].isalpha():
      raise LaunchError(
        f'{name!r} is no name of a JobSet: expected a letter first and at most '
        f'{_MOST_LETTERS} in all. Rename the folder of the runs, or values.'
      )
    return name

  def _check(self, job: Job) -> None:
    if not pathlib.Path(job.run_dir).is_relative_to(self.mount):
      raise LaunchError(
        f'{job.name}: its folder is {job.run_dir}; expected one below '
        f'{self.mount}, which the hosts share.'
      )
    if not re.fullmatch(r'\d+(x\d+){1,2}', self.topology):
      raise LaunchError(
        f'topology is {self.topology!r}; expected one such as 4x4 or 2x2x4.'
      )
    chips = math.prod(map(int, self.topology.split('x')))
    if chips != job.hosts * self.chips_per_host:
      raise LaunchError(
        f'{job.name}: {job.hosts} hosts of {self.chips_per_host} chips are not '
        f'the {chips} chips of a slice {self.topology}; change `hosts` or '
        'chips_per_host.'
      )
