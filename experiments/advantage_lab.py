"""Measures how far each estimator's advantages are from the true ones.

  python -m experiments.advantage_lab --out=runs/advantage_lab --workers=2

A scripted player of given skill acts on a window of K turns in small generated
ALFWorld games. The game can be forked anywhere, so the true advantage of a step
is had by playing on from it many times; groups of episodes that hold the same
step are given to the estimators. In the folder --out:

  report.md        who is nearer to the truth, with intervals
  cells.csv        every estimator at every (skill, K, group size)
  comparisons.csv  paired differences
  steps.csv        the steps with their true advantages and standard errors
  levels.csv       what the contexts join
  cells/           the episodes: a lab that was stopped goes on from there
  *.png            figures

The default table takes half an hour on 2 busy cores. What it writes, but for
what report.md says of when and where, is a function of the flags, whatever
--workers.
--alphas and all but the largest of --group_sizes can be changed without playing
again, and --skills and --depths be extended.
"""

from __future__ import annotations

import itertools
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from absl import app, flags

from envs.alfworld.generate import SPECS
from envs.base import EnvError
from experiments import command, sessions
from experiments.configs import alfworld_tiny
from experiments.lab import plots, report, tables
from experiments.lab.cases import Settings
from experiments.lab.cells import LabError, Player, cells, missing

Number = TypeVar('Number', int, float)

_SKILLS = flags.DEFINE_list(
  'skills', ['0.3', '0.6', '0.9'], 'Shares of sensible moves, in [0, 1].'
)
_DEPTHS = flags.DEFINE_list(
  'depths', ['0', '1', '2', '4'], 'K: turns in the window and in contexts.'
)
_ALPHAS = flags.DEFINE_list('alphas', ['0', '1', '2'], "HGPO's exponents.")
_GROUP_SIZES = flags.DEFINE_list(
  'group_sizes', ['4', '8', '16'], 'Episodes in a group.'
)
_STEPS = flags.DEFINE_integer(
  'steps', 300, 'True advantages per skill and K.', lower_bound=2
)
_CONTINUATIONS = flags.DEFINE_integer(
  'continuations', 300, 'After a step, and as many after others.', lower_bound=2
)
_REPLICATES = flags.DEFINE_integer(
  'replicates', 12, 'Independent groups per step.', lower_bound=2
)
_MEMBERS = flags.DEFINE_integer(
  'members', 4, 'Rows of the same state, with true values.', lower_bound=1
)
_DRAWS = flags.DEFINE_integer(
  'draws', 1000, 'Bootstrap resamples of the games.', lower_bound=10
)
_MAX_TURNS = flags.DEFINE_integer(
  'max_turns', 20, 'Turns of an episode.', lower_bound=1
)
_FAMILY = flags.DEFINE_enum('family', 'easy', [*SPECS], 'Of games.')
_DISTRACTORS = flags.DEFINE_list(
  'distractors', ['0', '2'], 'Least and most other objects in a game.'
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of everything.', lower_bound=0)
_WORKERS = flags.DEFINE_integer('workers', 2, 'Processes.', lower_bound=1)
_OUT = flags.DEFINE_string('out', 'runs/advantage_lab', 'Folder of results.')


def main() -> None:
  """Plays, estimates, and writes the report."""
  begin = time.monotonic()

  def show(text: str) -> None:
    print(f'{time.monotonic() - begin:7.0f} s  {text}', flush=True)

  folder, settings, alphas = pathlib.Path(_OUT.value), _settings(), _alphas()
  players = _players()
  todo = len(missing(folder / 'cells', players))
  everything = _estimated(settings, players, folder / 'cells', show)
  for name in ('cells', 'comparisons', 'levels', 'steps'):
    tables.write_csv(folder / f'{name}.csv', getattr(everything, name))
  minutes = (time.monotonic() - begin) / 60
  if todo:
    record = sessions.describe('experiments.advantage_lab', sys.argv[1:])
    record['note'] = (
      f'{minutes:.1f} minutes with {_WORKERS.value} workers for {todo} of '
      f'{len(players)} cells'
    )
    sessions.append(folder, record)
  text = report.write(
    everything,
    alpha=tables.main_alpha(alphas),
    made='\n'.join(sessions.lines(sessions.read(folder))),
    figures=plots.draw(everything, folder),
  )
  (folder / 'report.md').write_text(text, encoding='utf-8')
  show(f'wrote {folder / "report.md"}')


def _estimated(
  settings: Settings,
  players: Sequence[Player],
  folder: pathlib.Path,
  show: Callable[[str], None],
) -> tables.Tables:
  """Plays the cells that are not there yet, and judges all of them."""
  return tables.joined(
    [
      tables.of_cell(
        player,
        cell,
        settings.rules(player[1]),
        alphas=_alphas(),
        group_sizes=_group_sizes(),
        draws=_DRAWS.value,
        seed=settings.seed,
      )
      for player, cell in cells(
        settings, players, folder, workers=_WORKERS.value, show=show
      )
    ]
  )


def _settings() -> Settings:
  config = alfworld_tiny.get_config()
  return Settings(
    seed=_SEED.value,
    steps=_STEPS.value,
    continuations=_CONTINUATIONS.value,
    replicates=_REPLICATES.value,
    episodes=max(_group_sizes()),
    members=_MEMBERS.value,
    max_turns=_MAX_TURNS.value,
    gamma=config.algo.gamma,
    reward=config.algo.reward_scale,
    family=_FAMILY.value,
    distractors=_distractors(),
  )


def _distractors() -> tuple[int, int]:
  words = _DISTRACTORS.value
  numbers = [int(word) for word in words if word.isdecimal()]
  if len(words) != 2 or len(numbers) != 2 or numbers[0] > numbers[1]:
    raise app.UsageError(
      f'Got --distractors={",".join(words)}, expected the least and the most '
      'of them, such as 0,2.'
    )
  return numbers[0], numbers[1]


def _players() -> list[Player]:
  skills = _numbers('skills', _SKILLS.value, float, 0, 1)
  depths = _numbers('depths', _DEPTHS.value, int, 0, _MAX_TURNS.value)
  return [*itertools.product(skills, depths)]


def _alphas() -> list[float]:
  return _numbers('alphas', _ALPHAS.value, float, -100, 100)


def _group_sizes() -> list[int]:
  return _numbers('group_sizes', _GROUP_SIZES.value, int, 2, 1024)


def _numbers(
  flag: str, words: list[str], kind: type[Number], least: int, most: int
) -> list[Number]:
  """Reads a list of distinct numbers in [least, most], in rising order."""
  try:
    values = sorted(set(map(kind, words)))
  except ValueError:
    values = []
  if not values or not all(least <= value <= most for value in values):
    raise app.UsageError(
      f'Got --{flag}={",".join(words)}, expected numbers from {least} to '
      f'{most} with commas between them.'
    )
  return values


if __name__ == '__main__':
  command.run(main, LabError, EnvError)
