"""Shop by hand: `python -m envs.webshop.play --task=3`.

A line is an action, `search[words]` or `click[name]`, or the number of one that
is listed. At the end stands what the purchase is worth, and why.
"""

from __future__ import annotations

import argparse
import sys

from envs import play
from envs.base import EnvError
from envs.webshop import env


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  play.add_arguments(parser, 'train')
  parser.add_argument('--products', default='', help='items_shuffle*.json')
  parser.add_argument('--attributes', default='', help='items_ins_v2*.json')
  parser.add_argument('--human', default='', help='items_human_ins.json')
  parser.add_argument('--family', default='full', choices=env.FAMILIES)
  parser.add_argument('--reward', default='webshop', choices=env.REWARDS)
  parser.add_argument('--cache', default='', help='keeps the packed catalogue')
  args = parser.parse_args(argv)
  files = bool(args.products)
  try:
    world = env.WebShop(
      data='files' if files else 'generated',
      products=args.products,
      attributes=args.attributes,
      human=args.human,
      family=args.family,
      num_products=0 if files else 300,
      max_turns=args.max_turns,
      reward=args.reward,
      queries='offered',
      cache=args.cache,
    )
  except EnvError as error:
    sys.exit(f'{type(error).__name__}: {error}')
  play.play(world, args)


if __name__ == '__main__':
  main()
