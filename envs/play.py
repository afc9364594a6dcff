"""One task by hand in a terminal, for whatever world; lines in, pages out."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from typing import IO

from envs.base import EnvError, Step, Task, TextEnv
from envs.world import World

_SHOWN = 60  # actions that are listed at most; more are understood


def main(
  make_world: Callable[..., World],
  doc: str,
  argv: Sequence[str] | None,
  **defaults: str | int,
) -> None:
  """Plays the task that the arguments name on stdin and stdout.

  The options of the world that are texts or whole numbers are arguments too.
  Exits with a message where the world refuses them.

  Args:
    make_world: the class of the world.
    doc: help text; its first line is shown.
    argv: what is parsed; None takes the command line.
    **defaults: of options, where they differ from the world's own.
  """
  parser = argparse.ArgumentParser(description=doc.splitlines()[0])
  parser.add_argument('--split', default='train')
  parser.add_argument('--task', type=int, default=0, help='index in the split')
  options = {
    name: parameter.default
    for name, parameter in inspect.signature(make_world).parameters.items()
    if type(parameter.default) in (str, int)
  }
  for name, default in (options | defaults).items():
    help_ = f'option of the world; default: {default!r}'
    parser.add_argument(
      f'--{name}', type=type(default), default=default, help=help_
    )
  args = parser.parse_args(argv)
  try:
    world = make_world(**{name: getattr(args, name) for name in options})
    task = Task(args.split, args.task)
    play_task(world.make_env(), task, sys.stdin, sys.stdout)
  except EnvError as error:
    sys.exit(f'{type(error).__name__}: {error}')


def play_task(
  env: TextEnv, task: Task, lines: IO[str], out: IO[str]
) -> Step | None:
  """Plays a task until its end, or the end of the lines.

  Args:
    env: what is played.
    task: where it starts.
    lines: an action each, or the number of one that is listed.
    out: gets the pages, and at the end the reward with its parts.

  Returns: the last step, None where the lines ended first.
  """
  step, turns = env.reset(task), 0
  while not step.done:
    print(f'\n{_page(step)}\n[{turns}] > ', end='', file=out, flush=True)
    line = lines.readline()
    if not line:
      print('\nThe input ended before the task did.', file=out)
      return None
    step, turns = env.step(_action(line.strip(), step.admissible)), turns + 1
  print(f'\n{_text(step.observation)}\n\n{_result(step, turns)}', file=out)
  return step


def _action(line: str, admissible: Sequence[str]) -> str:
  if re.fullmatch('[0-9]{1,4}', line) and int(line) < len(admissible):
    return admissible[int(line)]
  return line


def _page(step: Step) -> str:
  actions = [f'  {i}: {text}' for i, text in enumerate(step.admissible)]
  left = len(actions) - _SHOWN
  if left > 0:
    actions[_SHOWN:] = [f'  and {left} more']
  return '\n'.join([_text(step.observation), '', *actions])


def _text(observation: str) -> str:
  return observation.replace(' [SEP] ', '\n')


def _result(step: Step, turns: int) -> str:
  ending = 'won' if step.won else 'lost' if step.terminated else 'step limit'
  lines = [f'{ending} after {turns} turns; reward {step.reward:.3f}']
  lines += [f'  {name:<16}{part:.3f}' for name, part in step.parts.items()]
  return '\n'.join(lines)
