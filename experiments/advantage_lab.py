"""Measures how far each estimator's advantages are from the true ones.

  python -m experiments.advantage_lab --out=runs/advantage_lab --workers=2

A scripted player of given skill acts on a window of K turns in small generated
ALFWorld games. The game can be forked anywhere, so the true advantage of a step
comes from many continuations. The estimators see groups of episodes that hold
the same step. In the folder --out:

  report.md        who is nearer to the truth, with intervals
  cells.csv        every estimator at every (skill, K, group size)
  comparisons.csv  paired differences
  steps.csv        the steps with their true advantages and standard errors
  levels.csv       what the contexts join
  cells/           the episodes: a lab that was stopped continues from them
  *.png            figures

The default table takes half an hour on 2 busy cores. Apart from the lines of
report.md on when and where, results depend on the flags alone, whatever
--workers.
--alphas and all but the largest of --group_sizes can be changed without playing
again, and --skills and --depths be extended.
"""

from __future__ import annotations

import itertools
import pathlib
import sys
import time
from typing import TypeVar

from absl import app, flags

from envs.base import EnvError
from experiments import command, sessions
from experiments.configs import alfworld_tiny, base
from experiments.lab import plots, report, tables
from experiments.lab.cases import Settings
from experiments.lab.cells import LabError, cells, missing

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
_SEED = flags.DEFINE_integer('seed', 0, 'Of everything.', lower_bound=0)
_WORKERS = flags.DEFINE_integer('workers', 2, 'Processes.', lower_bound=1)
_OUT = flags.DEFINE_string('out', 'runs/advantage_lab', 'Folder of results.')


def main() -> None:
  """Plays the cells that are missing; writes tables and the report."""
  begin = time.monotonic()

  def show(text: str) -> None:
    print(f'{time.monotonic() - begin:7.0f} s  {text}', flush=True)

  config = base.freeze(alfworld_tiny.get_config())
  games = config.env.options[config.env.world]
  folder = pathlib.Path(_OUT.value)
  alphas = _numbers(_ALPHAS, float, -100, 100)
  group_sizes = _numbers(_GROUP_SIZES, int, 2, 1024)
  players = [
    *itertools.product(
      _numbers(_SKILLS, float, 0, 1),
      _numbers(_DEPTHS, int, 0, games.max_turns),
    )
  ]
  settings = Settings(
    seed=_SEED.value,
    steps=_STEPS.value,
    continuations=_CONTINUATIONS.value,
    replicates=_REPLICATES.value,
    episodes=max(group_sizes),
    members=_MEMBERS.value,
    max_turns=games.max_turns,
    gamma=config.algo.gamma,
    reward=config.algo.reward_scale,
    family=games.family,
    distractors=games.num_distractors,
  )
  todo = len(missing(folder / 'cells', players))
  everything = tables.joined(
    [
      tables.of_cell(
        player,
        cell,
        settings.rules(player[1]),
        alphas=alphas,
        group_sizes=group_sizes,
        draws=_DRAWS.value,
        seed=settings.seed,
      )
      for player, cell in cells(
        settings, players, folder / 'cells', workers=_WORKERS.value, show=show
      )
    ]
  )
  for name in ('cells', 'comparisons', 'levels', 'steps'):
    tables.write_csv(folder / f'{name}.csv', getattr(everything, name))
  if todo:
    record = sessions.describe('experiments.advantage_lab', sys.argv[1:])
    record['note'] = (
      f'{(time.monotonic() - begin) / 60:.1f} minutes with {_WORKERS.value} '
      f'workers for {todo} of {len(players)} cells'
    )
    sessions.append(folder, record)
  text = report.write(
    everything,
    alpha=tables.main_alpha(alphas),
    provenance='\n'.join(sessions.lines(sessions.read(folder))),
    figures=plots.draw(everything, folder),
  )
  (folder / 'report.md').write_text(text, encoding='utf-8')
  show(f'wrote {folder / "report.md"}')


def _numbers(
  flag: flags.FlagHolder[list[str]],
  kind: type[Number],
  least: int,
  most: int,
) -> list[Number]:
  """Reads a list of distinct numbers in [least, most], in rising order."""
  try:
    values = sorted(set(map(kind, flag.value)))
  except ValueError:
    values = []
  if not values or not all(least <= value <= most for value in values):
    raise app.UsageError(
      f'Got --{flag.name}={",".join(flag.value)}, expected numbers from '
      f'{least} to '
      f'{most} with commas between them.'
    )
  return values


if __name__ == '__main__':
  command.run(main, LabError, EnvError)
