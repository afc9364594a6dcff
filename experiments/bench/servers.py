"""What do environment servers cost? ALFWorld inline, local, and remote.

  python -m experiments.bench.servers [--episodes=128] [--servers=2] \\
    [--run=runs/alfworld_tiny] [--json]

Plays the same random actions in all three and compares what comes back: in this
process, behind servers as `env.servers` starts them, and at addresses as
`env.addresses` names them (without TLS, and here on this machine too). A call
of `step_envs` plays one action in every episode. With --run, which names the
folder of a run, says what share of its iterations they would take. Times are
wall times, since most of the work is in other processes: compare them on a
machine with nothing else to do. With --json the last line is one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from absl import app, flags

from envs import inline, registry
from envs.base import EnvError, Step, Task
from envs.serving import client, local

_EPISODES = flags.DEFINE_integer('episodes', 128, 'At once.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 50, 'Calls to time.', lower_bound=1)
_SERVERS = flags.DEFINE_integer('servers', 2, 'Processes.', lower_bound=1)
_RUN = flags.DEFINE_string('run', '', "A run's folder, to compare with.")
_JSON = flags.DEFINE_bool('json', False, 'End with one JSON object.')

WORLD = 'alfworld'


def play(
  step_envs: inline.Client, episodes: int, steps: int
) -> tuple[list[float], list[dict[int, Step]]]:
  """Plays random actions; returns seconds per call of actions, and steps."""
  answers = [step_envs({i: Task('train', i) for i in range(episodes)})]
  seconds = []
  for turn in range(steps):
    actions = {
      env_id: Task('train', env_id)  # rarely: few random games are won
      if step.done
      else random.Random(f'{env_id} {turn}').choice(step.admissible)
      for env_id, step in answers[-1].items()
    }
    start = time.perf_counter()
    answers.append(step_envs(actions))
    seconds.append(time.perf_counter() - start)
  return seconds, answers


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


def run(episodes: int, steps: int, servers: int) -> dict[str, float]:
  """Medians in microseconds per step of one episode, and per call.

  Raises: EnvError where a server fails, or the answers differ.
  """
  options = {'max_turns': steps + 1, 'family': 'full'}
  kinds: dict[str, Callable[[], Any]] = {
    'inline': lambda: inline.InlineClient(
      registry.make_world(WORLD, options).make_env
    ),
    'local': lambda: local.open_client(WORLD, options, servers),
    'remote': lambda: remote(servers, options),
  }
  result: dict[str, float] = {'episodes': episodes, 'servers': servers}
  expected = None
  for name, make in kinds.items():
    with make() as step_envs:
      play(step_envs, episodes, 2)  # games are loaded, untimed
      seconds, answers = play(step_envs, episodes, steps)
    if expected is not None and answers != expected:
      raise EnvError(f'{name} answers otherwise than inline.')
    expected = answers
    call = statistics.median(seconds)
    result[f'{name}_us_per_call'] = 1e6 * call
    result[f'{name}_us_per_step'] = 1e6 * call / episodes
  for name in ('local', 'remote'):
    result[f'{name}_overhead_us_per_step'] = (
      result[f'{name}_us_per_step'] - result['inline_us_per_step']
    )
  return result


def us_per_step(folder: pathlib.Path) -> float:
  """What an iteration of a run takes for each step of its rollout, median."""
  rollout = json.loads((folder / 'config.json').read_text())['rollout']
  episodes = rollout['groups'] * rollout['group_size']
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return 1e6 * statistics.median(
    (r['time/rollout_s'] + r['time/update_s']) / (r['rollout/turns'] * episodes)
    for r in map(json.loads, lines)
  )


def table(result: dict[str, float], iteration: float | None) -> str:
  """The three side by side; `iteration` is in microseconds per step."""
  lines = [f'{"median us":12}{"call":>10}{"step":>10}{"overhead":>10}']
  for name in ('inline', 'local', 'remote'):
    call, step = result[f'{name}_us_per_call'], result[f'{name}_us_per_step']
    overhead = step - result['inline_us_per_step']
    line = f'{name:12}{call:10,.0f}{step:10.1f}{overhead:10.1f}'
    if iteration:
      line += f'  {step / iteration:.1%} of an iteration'
    lines.append(line)
  return '\n'.join(lines)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  try:
    iteration = us_per_step(pathlib.Path(_RUN.value)) if _RUN.value else None
    result = run(_EPISODES.value, _STEPS.value, _SERVERS.value)
  except (EnvError, OSError) as error:
    sys.exit(f'{type(error).__name__}: {error}')
  print(
    f'{_EPISODES.value} episodes, {_SERVERS.value} servers, '
    f'{_STEPS.value} calls: no difference'
  )
  print(table(result, iteration))
  if _JSON.value:
    print(json.dumps(result))


if __name__ == '__main__':
  app.run(main)
