"""How fast are the worlds? ALFWorld's two engines, or WebShop's search.

  python -m experiments.bench.env [--games=12] [--steps=30] [--json]
  python -m experiments.bench.env --env=webshop [--products=1000000] [--json]

For ALFWorld the same commands are played in both engines. Games are generated,
so no data is needed; the reference engine needs the alfworld package. Texts,
commands and rewards of both are compared. `shop.py` says how WebShop is
measured. Time is the process's CPU time, so that other programs do not count.
"""

from __future__ import annotations

import os
import pathlib
import random
import statistics
import sys
import time
from typing import Any

from absl import flags

from envs.alfworld.engine import Engine
from envs.alfworld.game import Game
from envs.alfworld.generate import SPECS, generate_game
from envs.alfworld.textworld import TextworldEngine
from envs.base import Step
from experiments.bench import harness, shop

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


def compare(
  game: Game,
  steps: int,
  reference: TextworldEngine,
  fast: harness.Stopwatch,
  slow: harness.Stopwatch,
) -> None:
  """Plays random commands in the fast engine, then the same in the other.

  Stopwatches time `load` and `reset` per game, `step` per step of all games.
  """
  rng = random.Random(game.name)
  engine = fast('load', Engine, game)
  step = fast('reset', engine.reset)
  commands, answers = ['reset'], [step]
  while len(commands) <= steps and not step.terminated:
    commands.append(rng.choice(step.admissible))
    step = fast('step', engine.step, commands[-1])
    answers.append(step)
  slow('load', reference.load, game)
  check(game, 'reset', answers[0], slow('reset', reference.reset))
  for command, answer in zip(commands[1:], answers[1:], strict=True):
    check(game, command, answer, slow('step', reference.step, command))


def check(game: Game, command: str, ours: Step, reference: Step) -> None:
  """Stops the program where the engines differ."""
  if ours != reference:
    sys.exit(
      f'{game.name}: after {command!r} the engines differ.\n'
      f'fast: {ours}\ntextworld: {reference}'
    )


def measure() -> dict[str, Any]:
  """Measures the world that --env names."""
  if _ENV.value == 'webshop':  # a thousand steps settle its rate
    return shop.run(pathlib.Path(_DATA.value), _PRODUCTS.value, steps=1000)
  fast, slow = (harness.Stopwatch(time.process_time) for _ in range(2))
  games = [
    generate_game(SPECS[_FAMILY.value], 'train', i) for i in range(_GAMES.value)
  ]
  reference = TextworldEngine(games[0])  # imports the package, untimed
  for game in games:
    compare(game, _STEPS.value, reference, fast, slow)
  return {
    'games': len(games),
    'steps': len(fast.seconds['step']),
    'fast_steps_per_second': fast.rate('step'),
    'reference_steps_per_second': slow.rate('step'),
    'ratio': fast.rate('step') / slow.rate('step'),
    'table': [_row(name, fast, slow) for name in ('load', 'reset', 'step')],
  }


def _row(
  name: str, fast: harness.Stopwatch, slow: harness.Stopwatch
) -> dict[str, Any]:
  """Milliseconds of both engines, mean and median."""
  row: dict[str, Any] = {'ms': name}
  for engine, watch in (('fast', fast), ('textworld', slow)):
    row[engine] = 1e3 * statistics.mean(watch.seconds[name])
    row[f'{engine} (median)'] = 1e3 * watch.median(name)
  return row | {'ratio': row['textworld'] / row['fast']}


if __name__ == '__main__':
  harness.main(measure)
