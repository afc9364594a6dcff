"""Shop by hand: `python -m envs.webshop.play --task=3`.

A line is an action, `search[words]` or `click[name]`, or the number of one that
is listed. At the end stands what the purchase is worth, and why.
"""

from __future__ import annotations

import argparse

from envs import play
from envs.webshop import env


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--products', default='', help='items_shuffle*.json')
  parser.add_argument('--attributes', default='', help='items_ins_v2*.json')
  parser.add_argument('--human', default='', help='items_human_ins.json')
  parser.add_argument('--family', default='full', choices=env.FAMILIES)
  parser.add_argument('--reward', default='webshop', choices=env.REWARDS)
  parser.add_argument('--cache', default='', help='keeps the packed catalogue')
  play.main(parser, _make_world, argv)


def _make_world(args: argparse.Namespace) -> env.WebShop:
  files = bool(args.products or args.attributes or args.human)
  return env.WebShop(
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


if __name__ == '__main__':
  main()
