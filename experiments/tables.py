"""Gathers finished runs of the paper's cells into the paper's layout.

`python -m experiments.tables --runs=runs --output=tables` reads every finished
run below `runs/` whose config names a cell of `experiments/configs/paper.py`,
prints the tables and writes them as `tables/paper.md` and, a line per number,
`tables/paper.csv`.
"""

from __future__ import annotations

import pathlib

from absl import flags

from experiments import command, layout
from hgpo_jax.train import metrics
from hgpo_jax.types import ConfigError

_RUNS = flags.DEFINE_string('runs', 'runs', 'Folder that holds the runs.')
_OUTPUT = flags.DEFINE_string('output', '', "Where to write; '' prints alone.")


def main() -> None:
  """Gathers, prints and writes."""
  runs = layout.gather(pathlib.Path(_RUNS.value))
  text = layout.report(runs)
  print(text)
  if _OUTPUT.value:
    folder = pathlib.Path(_OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    metrics.write_atomic(folder / 'paper.md', text)
    metrics.write_atomic(folder / 'paper.csv', layout.csv_lines(runs))
    print(f'{folder}/paper.md and paper.csv written')


if __name__ == '__main__':
  command.run(main, ConfigError)
