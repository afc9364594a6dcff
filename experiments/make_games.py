"""Writes generated ALFWorld games as files, for machines without the package.

`python -m experiments.make_games --output=games --split=train --games=64` makes
what `--config.env.alfworld.data=files --config.env.alfworld.root=games` plays.
"""

from __future__ import annotations

import tqdm
from absl import flags

from envs.alfworld import generate
from envs.alfworld.games import write_game
from envs.base import EnvError
from experiments import command

_OUTPUT = flags.DEFINE_string(
  'output', None, 'Becomes the folder that holds json_2.1.1/.', required=True
)
_SPLIT = flags.DEFINE_enum('split', 'train', generate.SPLITS, 'Split.')
_GAMES = flags.DEFINE_integer('games', 64, 'How many.', lower_bound=1)
_FAMILY = flags.DEFINE_enum('family', 'full', list(generate.SPECS), 'Size.')
_SEED = flags.DEFINE_integer('seed', 0, 'Another seed, other games.')


def main() -> None:
  """Generates and writes them."""
  spec = generate.SPECS[_FAMILY.value]
  for index in tqdm.tqdm(range(_GAMES.value), desc='games'):
    game = generate.generate_game(spec, _SPLIT.value, index, _SEED.value)
    write_game(game, _OUTPUT.value, _SPLIT.value)


if __name__ == '__main__':
  command.run(main, EnvError)
