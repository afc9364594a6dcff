"""What do environment servers cost? ALFWorld inline, local, and remote.

  python -m experiments.bench.servers [--episodes=128] [--servers=2] \\
    [--run=runs/alfworld_tiny] [--json]

Plays the same random actions in all three and compares what comes back: in this
process, behind servers as `env.servers` starts them, and at addresses as
`env.addresses` names them (without TLS, and here on this machine too). A call
of `step_envs` plays one action in every episode. With --run, which names the
folder of a run, says what share of its iterations they would take. Times are
wall times, since most of the work is in other processes: compare them on a
machine with nothing else to do.
"""

from __future__ import annotations

import contextlib
import pathlib
import random
import statistics
from collections.abc import Callable, Iterator
from typing import Any

from absl import flags

from envs import inline, registry
from envs.base import EnvError, Step, StepEnvs, Task
from envs.serving import client, local
from experiments.bench import harness
from experiments.folders import RunFolder

_EPISODES = flags.DEFINE_integer('episodes', 128, 'At once.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 50, 'Calls to time.', lower_bound=1)
_SERVERS = flags.DEFINE_integer('servers', 2, 'Processes.', lower_bound=1)
_RUN = flags.DEFINE_string('run', '', "A run's folder, to compare with.")

WORLD = 'alfworld'


def play(
  step_envs: StepEnvs, episodes: int, steps: int
) -> tuple[float, list[dict[int, Step]]]:
  """Plays random actions; returns median seconds per call, and the steps."""
  answers = [step_envs({i: Task('train', i) for i in range(episodes)})]
  watch = harness.Stopwatch()
  for turn in range(steps):
    actions = {
      env_id: Task('train', env_id)  # rarely: few random games are won
      if step.done
      else random.Random(f'{env_id} {turn}').choice(step.admissible)
      for env_id, step in answers[-1].items()
    }
    answers.append(watch('call', step_envs, actions))
  return watch.median('call'), answers


@contextlib.contextmanager
def remote(
  servers: int, options: dict[str, Any]
) -> Iterator[client.GrpcClient]:
  """A client of servers that live as long."""
  with contextlib.ExitStack() as stack:
    started = [
      stack.enter_context(local.LocalServer(WORLD, options))
      for _ in range(servers)
    ]
    addresses = [server.ready() for server in started]
    yield stack.enter_context(client.GrpcClient(addresses, WORLD, options))


def measure() -> dict[str, Any]:
  """Plays in all kinds of environments.

  Raises: EnvError where a server fails, or the answers differ.
  """
  episodes, servers = _EPISODES.value, _SERVERS.value
  run = RunFolder(pathlib.Path(_RUN.value)) if _RUN.value else None
  iteration = us_per_step(run) if run else None
  options = {'max_turns': _STEPS.value + 1, 'family': 'full'}
  kinds: dict[str, Callable[[], Any]] = {
    'inline': lambda: inline.InlineClient(
      registry.make_world(WORLD, options).make_env
    ),
    'local': lambda: local.open_client(WORLD, options, servers),
    'remote': lambda: remote(servers, options),
  }
  table: list[dict[str, Any]] = []
  expected = None
  for name, make in kinds.items():
    with make() as step_envs:
      play(step_envs, episodes, 2)  # games are loaded, untimed
      call, answers = play(step_envs, episodes, _STEPS.value)
    if expected is not None and answers != expected:
      raise EnvError(f'{name} answers otherwise than inline.')
    expected = answers
    step = 1e6 * call / episodes
    row = {'median us': name, 'call': 1e6 * call, 'step': step}
    row['overhead'] = step - table[0]['step'] if table else 0.0
    if iteration:
      row['share of an iteration'] = step / iteration
    table.append(row)
  return {'episodes': episodes, 'servers': servers, 'table': table}


def us_per_step(run: RunFolder) -> float:
  """What an iteration of a run takes for each step of its rollout, median."""
  return 1e6 * statistics.median(
    (line['time/rollout_s'] + line['time/update_s'])
    / (line['rollout/turns'] * run.episodes)
    for line in run.metrics
  )


if __name__ == '__main__':
  harness.main(measure)
