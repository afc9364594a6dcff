"""Play ALFWorld by hand: `python -m envs.alfworld.play --task=3`.

A line is an action, such as `go to fridge 1`, or the number of one that is
listed. Games are generated, or with `--data=files` the released ones.
"""

from __future__ import annotations

import argparse

from envs import play
from envs.alfworld import env
from envs.alfworld.generate import SPECS


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data', default='generated', choices=env.DATA)
  parser.add_argument('--root', default='', help='folder of json_2.1.1/')
  parser.add_argument('--family', default='easy', choices=tuple(SPECS))
  play.main(parser, _make_world, argv)


def _make_world(args: argparse.Namespace) -> env.AlfWorld:
  return env.AlfWorld(
    data=args.data,
    root=args.root,
    family=args.family,
    max_turns=args.max_turns,
  )


if __name__ == '__main__':
  main()
