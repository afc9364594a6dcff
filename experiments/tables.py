"""Gathers finished runs of the paper's cells into the paper's layout.

`python -m experiments.tables --runs=runs --output=tables` reads every finished
run below `runs/` whose config names a cell of `experiments/configs/paper.py`,
prints the tables and writes them as `tables/paper.md` and, a line per number,
`tables/paper.csv`.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags

from experiments import finished, layout
from hgpo_jax.train import metrics
from hgpo_jax.types import ConfigError

_RUNS = flags.DEFINE_string('runs', 'runs', 'Folder that holds the runs.')
_OUTPUT = flags.DEFINE_string('output', '', "Where to write; '' prints alone.")


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  try:
    runs = finished.gather(pathlib.Path(_RUNS.value))
  except (ConfigError, OSError) as error:
    sys.exit(f'{type(error).__name__}: {error}')
  text = layout.report(runs)
  print(text)
  if _OUTPUT.value:
    folder = pathlib.Path(_OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    metrics.write_atomic(folder / 'paper.md', text)
    metrics.write_atomic(folder / 'paper.csv', layout.csv_lines(runs))
    print(f'{folder}/paper.md and paper.csv written')


if __name__ == '__main__':
  app.run(main)
