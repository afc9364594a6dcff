"""How fast are the worlds? ALFWorld's two engines, or WebShop's search.

  python -m experiments.bench.env [--games=12] [--steps=30] [--json]
  python -m experiments.bench.env --env=webshop [--products=1000000] [--json]

For ALFWorld the same commands are played in both engines. Games are generated,
so no data is needed; the reference engine needs the alfworld package. Texts,
commands and rewards of both are compared. `bench_shop.py` says how WebShop is
measured. Time is the process's CPU time, so that other programs do not count.
With --json the last line is one JSON object.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from absl import app, flags

from envs.alfworld.engine import Engine
from envs.alfworld.game import Game
from envs.alfworld.generate import SPECS, generate_game
from envs.alfworld.textworld import TextworldEngine
from envs.base import EnvError, Step
from experiments.bench import shop

_ENV = flags.DEFINE_enum('env', 'alfworld', ['alfworld', 'webshop'], 'World.')
_GAMES = flags.DEFINE_integer('games', 12, 'How many games.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 30, 'Steps per game.', lower_bound=1)
_FAMILY = flags.DEFINE_enum('family', 'full', sorted(SPECS), 'Size of rooms.')
_PRODUCTS = flags.DEFINE_integer(
  'products', 1_000_000, "Of WebShop's large catalogue.", lower_bound=1
)
_DATA = flags.DEFINE_string(
  'webshop_data',
  os.path.join(os.environ.get('HGPO_TEST_DATA', '../shared/data'), 'webshop'),
  "Folder with WebShop's small set and recorded queries; generated if absent.",
)
_JSON = flags.DEFINE_bool('json', False, 'End with one JSON object.')


@dataclasses.dataclass
class Timing:
  """Seconds that one engine needed.

  Attributes:
    load: per game, reading its texts.
    reset: per game.
    step: per step, of all games.
  """

  load: list[float] = dataclasses.field(default_factory=list)
  reset: list[float] = dataclasses.field(default_factory=list)
  step: list[float] = dataclasses.field(default_factory=list)


def timed(seconds: list[float], fn: Callable[..., Any], *args: Any) -> Any:
  """Calls and notes the time that it took."""
  start = time.process_time()
  result = fn(*args)
  seconds.append(time.process_time() - start)
  return result


def compare(
  game: Game,
  steps: int,
  reference: TextworldEngine,
  fast: Timing,
  slow: Timing,
) -> None:
  """Plays random commands in the fast engine, then the same in the other."""
  rng = random.Random(game.name)
  engine = timed(fast.load, Engine, game)
  step = timed(fast.reset, engine.reset)
  commands, answers = ['reset'], [step]
  while len(commands) <= steps and not step.terminated:
    commands.append(rng.choice(step.admissible))
    step = timed(fast.step, engine.step, commands[-1])
    answers.append(step)
  timed(slow.load, reference.load, game)
  check(game, 'reset', answers[0], timed(slow.reset, reference.reset))
  for command, answer in zip(commands[1:], answers[1:], strict=True):
    expected = timed(slow.step, reference.step, command)
    check(game, command, answer, expected)


def check(game: Game, command: str, ours: Step, reference: Step) -> None:
  """Stops the program where the engines differ."""
  if ours != reference:
    sys.exit(
      f'{game.name}: after {command!r} the engines differ.\n'
      f'fast: {ours}\ntextworld: {reference}'
    )


def summary(fast: Timing, slow: Timing) -> dict[str, float]:
  """Means over all steps; the ratio is that of the total times."""
  return {
    'ratio': sum(slow.step) / sum(fast.step),
    'fast_steps_per_second': len(fast.step) / sum(fast.step),
    'reference_steps_per_second': len(slow.step) / sum(slow.step),
    'steps': len(fast.step),
    'games': len(fast.load),
  }


def table(fast: Timing, slow: Timing) -> str:
  """Milliseconds of both engines, mean (median)."""

  def cell(seconds: list[float]) -> str:
    mean, median = statistics.mean(seconds), statistics.median(seconds)
    return f'{1e3 * mean:.3f} ({1e3 * median:.3f})'

  lines = [f'{"ms":8}{"fast":>20}{"textworld":>20}{"ratio":>8}']
  for name in ('load', 'reset', 'step'):
    ours, reference = getattr(fast, name), getattr(slow, name)
    ratio = sum(reference) / sum(ours)
    lines.append(f'{name:8}{cell(ours):>20}{cell(reference):>20}{ratio:8.0f}')
  return '\n'.join(lines)


def bench_webshop() -> None:
  """Measures the shop; a thousand steps settle its rate."""
  try:
    result = shop.run(pathlib.Path(_DATA.value), _PRODUCTS.value, steps=1000)
  except EnvError as error:
    sys.exit(str(error))
  for name, value in result.items():
    print(f'{name:34s}{value:>14,.4g}')
  if _JSON.value:
    print(json.dumps(result))


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  if _ENV.value == 'webshop':
    bench_webshop()
    return
  fast, slow = Timing(), Timing()
  try:
    games = [
      generate_game(SPECS[_FAMILY.value], 'train', i)
      for i in range(_GAMES.value)
    ]
    reference = TextworldEngine(games[0])  # imports the package, untimed
    for game in games:
      compare(game, _STEPS.value, reference, fast, slow)
  except EnvError as error:
    sys.exit(str(error))
  result = summary(fast, slow)
  print(f'{result["games"]} games, {result["steps"]} steps: no difference')
  print(table(fast, slow))
  for engine in ('fast', 'reference'):
    print(f'{engine}: {result[f"{engine}_steps_per_second"]:,.0f} steps/s')
  if _JSON.value:
    print(json.dumps(result))


if __name__ == '__main__':
  app.run(main)
