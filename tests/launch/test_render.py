"""What back ends render, read by the tools' own parsers where they are here."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess

import pytest
import yaml

from launch import gke, job, slurm, tpu_pod
from launch.job import Job, LaunchError

JOBS = [
  Job(
    f'hgpo-1.5b-seed{seed}',
    'experiments/configs/paper.py:hgpo-webshop-1.5b-k2',
    f'/runs/paper/hgpo-1.5b-seed{seed}',
    {'seed': seed, 'eval.splits': ("it's", 'b'), 'cell': 'a $b'},
    hosts=4,
    env_servers=2,
    env={'HF_HOME': '/runs/hf'},
  )
  for seed in (0, 1)
]
ARGUMENTS = [
  '--config=experiments/configs/paper.py:hgpo-webshop-1.5b-k2',
  '--config.seed=1',
  "--config.eval.splits=(\"it's\", 'b')",
  '--config.cell=a $b',
  '--config.run_dir=/runs/paper/hgpo-1.5b-seed1',
  '--env_servers=2',
]

# ---- Slurm ----


def batch(**more):
  return slurm.Slurm('runs/launched/paper', python='python', **more)


def test_the_batch_script_has_these_directives(tmp_path):
  backend = batch(
    partition='tpu', account='me', gpus_per_node=4, more=['--mem=8G']
  )
  (path, text), *_ = backend.plan(JOBS, 2).files.items()
  folder = path.parent
  assert backend.plan(JOBS, 2).commands == [['sbatch', str(path)]]
  lines = text.splitlines()
  assert [x.split()[1] for x in lines if x.startswith('#SBATCH')] == [
    '--job-name=paper',
    '--array=0-1%2',
    '--nodes=4',
    '--ntasks-per-node=1',
    '--cpus-per-task=8',
    '--time=24:00:00',
    '--requeue',
    '--signal=TERM@120',
    '--open-mode=append',
    f'--output={folder}/slurm/%A_%a.log',
    f'--chdir={job.ROOT}',
    '--gpus-per-node=4',
    '--partition=tpu',
    '--account=me',
    '--mem=8G',
  ]
  # sbatch reads directives up to the first command.
  first = next(i for i, x in enumerate(lines) if not x.startswith('#'))
  assert not any(x.startswith('#SBATCH') for x in lines[first:])


@pytest.mark.parametrize(
  ('code', 'requeued'), [(0, False), (75, True), (3, False)]
)
def test_the_batch_script_runs(tmp_path, code, requeued):
  """By bash, with stubs for what Slurm brings."""
  path, stubs = tmp_path / 'slurm.sh', tmp_path / 'bin'
  path.write_text(batch().script(JOBS))
  stubs.mkdir()
  for name, text in {
    'srun': f'printf "%s\\n" "$HF_HOME" "$@" > "$OUT/srun"; exit {code}',
    'scontrol': 'printf "%s\\n" "$@" > "$OUT/scontrol"',
  }.items():
    (stubs / name).write_text(f'#!/bin/sh\n{text}\n')
    (stubs / name).chmod(0o755)
  done = subprocess.run(
    ['bash', path],
    env={
      'PATH': f'{stubs}:{os.environ["PATH"]}', 'OUT': str(tmp_path),
      'SLURM_ARRAY_TASK_ID': '1', 'SLURM_JOB_ID': '7',
      'SLURM_CPUS_PER_TASK': '8',
    },
  )  # fmt: skip
  assert done.returncode == code
  assert (tmp_path / 'srun').read_text().splitlines() == [
    '/runs/hf', '--cpus-per-task=8', 'python', '-m', 'launch.host',
    *ARGUMENTS, '--distributed',
  ]  # fmt: skip
  assert (tmp_path / 'scontrol').exists() == requeued
  if requeued:
    assert (tmp_path / 'scontrol').read_text() == 'requeue\n7\n'


def test_shellcheck_finds_nothing(tmp_path):
  if not shutil.which('shellcheck'):
    pytest.skip('shellcheck is not installed')
  path = tmp_path / 'slurm.sh'
  path.write_text(batch().script(JOBS))
  subprocess.run(['shellcheck', '--severity=warning', path], check=True)


def test_sbatch_takes_the_script(tmp_path):
  ping = shutil.which('scontrol') and subprocess.run(
    ['scontrol', 'ping'], capture_output=True
  )
  if not ping or ping.returncode:
    pytest.skip('no Slurm controller answers')
  path = tmp_path / 'slurm.sh'
  one = [Job('x', 'c.py', str(tmp_path))]
  path.write_text(batch(cpus_per_task=1).script(one))
  subprocess.run(['sbatch', '--test-only', path], check=True)


def test_a_sweep_that_is_queued_is_not_submitted_again(tmp_path, monkeypatch):
  for name, text in {
    'squeue': 'cat "$OUT/queue"',
    'sbatch': 'echo "$1" > "$OUT/submitted"',
  }.items():
    (tmp_path / name).write_text(f'#!/bin/sh\n{text}\n')
    (tmp_path / name).chmod(0o755)
  monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
  monkeypatch.setenv('OUT', str(tmp_path))
  backend, queue = slurm.Slurm(str(tmp_path / 'paper')), tmp_path / 'queue'
  queue.write_text(' 7_1 tpu paper me R 1:00 4 n[1-4]\n')
  with pytest.raises(LaunchError, match='(?s)jobs called paper.*7_1'):
    backend.run(JOBS)
  queue.write_text('')
  assert backend.run(JOBS) == []
  script = pathlib.Path((tmp_path / 'submitted').read_text().strip())
  assert script.read_text() == backend.script(JOBS)


def test_jobs_that_need_other_nodes_are_refused():
  with pytest.raises(LaunchError, match='differ in hosts or env'):
    batch().script([JOBS[0], Job('x', 'c.py', 'runs/x')])


# ---- GKE ----

GKE = gke.Gke(
  'runs/launched/paper', 'image', 'tpu-v5-lite-podslice', '4x4', 'c'
)


def manifests():
  (text,) = GKE.plan(JOBS).files.values()
  return list(yaml.safe_load_all(text))


def test_the_jobset_is_one_slice_of_indexed_pods():
  second = manifests()[1]
  assert second['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
  assert second['metadata']['name'] == 'paper-hgpo-1-5b-seed1'
  (hosts,) = second['spec']['replicatedJobs']
  spec = hosts['template']['spec']
  assert (spec['parallelism'], spec['completions']) == (4, 4)
  assert (spec['completionMode'], spec['backoffLimit']) == ('Indexed', 0)
  pod = spec['template']['spec']
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
    'cloud.google.com/gke-tpu-topology': '4x4',
  }
  (container,) = pod['containers']
  assert container['command'] == ['python', '-m', 'launch.host']
  # Kubernetes expands $(NAME) alone, so `a $b` stays as it is.
  assert container['args'] == [*ARGUMENTS, '--distributed']
  assert container['resources'] == {'limits': {'google.com/tpu': 4}}
  assert container['volumeMounts'][0]['mountPath'] == '/runs'
  assert pod['restartPolicy'] == 'Never'
  assert pod['terminationGracePeriodSeconds'] == 300


def test_preemption_restarts_without_end_and_errors_three_times():
  spec = manifests()[0]['spec']
  (rule,) = spec['failurePolicy']['rules']
  assert spec['failurePolicy']['maxRestarts'] == 3
  assert rule['action'] == 'RestartJobSetAndIgnoreMaxRestarts'
  assert rule['onJobFailureReasons'] == ['PodFailurePolicy']
  job_spec = spec['replicatedJobs'][0]['template']['spec']
  gone, saved = job_spec['podFailurePolicy']['rules']
  assert gone['onPodConditions'] == [
    {'type': 'DisruptionTarget', 'status': 'True'}
  ]
  assert saved['onExitCodes']['values'] == [75]
  (container,) = job_spec['template']['spec']['containers']
  assert saved['onExitCodes']['containerName'] == container['name']


def test_the_manifests_fit_kubernetes_schemas():
  """The Job in the JobSet, and the JobSet by the models of its own API."""
  need = 'needs: pip install kubernetes-validate kubeflow-trainer-api'
  validator = pytest.importorskip('kubernetes_validate', reason=need)
  models = pytest.importorskip(
    'kubeflow_trainer_api.models.jobset_v1alpha2_job_set', reason=need
  )
  for manifest in manifests():
    (hosts,) = manifest['spec']['replicatedJobs']
    whole = {
      'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': 'x'},
      'spec': hosts['template']['spec'],
    }  # fmt: skip
    validator.validate(whole, '1.33', strict=True)
    read = models.JobsetV1alpha2JobSet.from_dict(manifest).to_dict()
    assert (
      json.loads(json.dumps(read)) == manifest
    )  # it drops what it knows not


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({'topology': '4x8'}, '4 hosts of 4 chips are not the 32 chips'),
    ({'topology': '16'}, 'such as 4x4'),
    ({'mount': '/else'}, 'expected one below /else'),
    ({'folder': 'x' * 30}, 'is no name of a JobSet'),
  ],
)
def test_what_a_cluster_would_not_take_is_refused(change, said):
  options = {
    'folder': 'paper', 'image': 'i', 'accelerator': 'a', 'topology': '4x4',
    'claim': 'c', **change,
  }  # fmt: skip
  with pytest.raises(LaunchError, match=said):
    gke.Gke(**options).plan(JOBS)


# ---- TPU VMs ----

POD = tpu_pod.TpuPod('runs/launched/paper', 'slice', 'zone-b')


def remote(command):
  """The words that a shell on a host would see."""
  (text,) = [x for x in command if x.startswith('--command=')]
  subprocess.run(['bash', '-n', '-c', text[10:]], check=True)
  return shlex.split(text[10:])


def test_a_job_is_started_on_all_workers():
  first, second = POD.plan(JOBS).commands
  assert second[:6] == [
    'gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', 'slice',
  ]  # fmt: skip
  assert {'--worker=all', '--zone=zone-b'} < set(second)
  words = remote(second)
  start = words.index('exec')
  assert words[start:-3] == [
    'exec', 'env', 'HF_HOME=/runs/hf', '.venv/bin/python', '-m', 'launch.host',
    *ARGUMENTS, '--distributed',
  ]  # fmt: skip
  logs = '/runs/paper/hgpo-1.5b-seed1/logs'
  assert words[-3:] == ['>>', f'{logs}/host_$(hostname).log', '2>&1']
  assert f'{logs}/host_$(hostname).pid)' in remote(POD.stop(JOBS[1]))
  # A host that is alone calls itself 0: see `launch.host`.
  alone = Job('x', 'c.py', 'runs/x')
  assert 'runs/x/logs/host_0.pid)' in remote(POD.stop(alone))


def test_hints_say_how_a_slice_is_made_and_filled():
  hints = POD.plan(JOBS).hints
  assert hints['makes the slice'] == [
    'gcloud', 'compute', 'tpus', 'queued-resources', 'create', 'slice',
    '--node-id=slice', '--zone=zone-b', '--accelerator-type=v5litepod-16',
    '--runtime-version=v2-alpha-tpuv5-lite', '--spot',
  ]  # fmt: skip
  assert remote(hints['installs it'])[-1] == '.[tpu]'


def test_a_slice_runs_one_job_after_another_until_one_fails():
  calls, codes = [], iter([0, 255])

  def call(command):
    calls.append(command)
    return next(codes)

  assert POD.run(JOBS, call=call) == JOBS[1:]
  assert calls == [POD.start(each) for each in JOBS]


def test_an_interrupt_tells_the_hosts_to_stop():
  calls = []

  def call(command):
    calls.append(command)
    if len(calls) == 1:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    POD.run(JOBS, call=call)
  assert calls == [POD.start(JOBS[0]), POD.stop(JOBS[0])]


@pytest.mark.parametrize('go', [POD.plan, POD.run])
def test_a_slice_holds_one_run(go):
  with pytest.raises(LaunchError, match='jobs_at_once is 2; expected 1'):
    go(JOBS, at_once=2)


def test_a_folder_that_hosts_do_not_share_is_refused():
  with pytest.raises(LaunchError, match='a full path'):
    POD.plan([Job('x', 'c.py', 'runs/x', hosts=4)])
