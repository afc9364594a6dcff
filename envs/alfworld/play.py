"""Play ALFWorld by hand: `python -m envs.alfworld.play --task=3`.

A line is an action, such as `go to fridge 1`, or the number of one that is
listed. Games are generated, or with `--data=files` the released ones.
"""

from __future__ import annotations

import argparse
import sys

from envs import play
from envs.alfworld import env
from envs.alfworld.generate import SPECS
from envs.base import EnvError


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  play.add_arguments(parser, 'train')
  parser.add_argument('--data', default='generated', choices=env.DATA)
  parser.add_argument('--root', default='', help='folder of json_2.1.1/')
  parser.add_argument('--family', default='easy', choices=tuple(SPECS))
  args = parser.parse_args(argv)
  try:
    world = env.AlfWorld(
      data=args.data,
      root=args.root,
      family=args.family,
      max_turns=args.max_turns,
    )
  except EnvError as error:
    sys.exit(f'{type(error).__name__}: {error}')
  play.play(world, args)


if __name__ == '__main__':
  main()
