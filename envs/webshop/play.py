"""Shop by hand: `python -m envs.webshop.play --task=3`.

A line is an action, `search[words]` or `click[name]`, or the number of one that
is listed. At the end stands what the purchase is worth, and why. Products are
generated, or all of those in WebShop's files where these are named.
"""

from __future__ import annotations

import functools
from typing import Any

from envs import play
from envs.webshop.env import WebShop


def main(argv: list[str] | None = None) -> None:
  """Plays a task with the options of `WebShop`."""
  play.main(_make_world, __doc__ or '', argv, queries='offered', max_turns=50)


@functools.wraps(WebShop)
def _make_world(**options: Any) -> WebShop:
  if options['products'] or options['attributes'] or options['human']:
    options.update(data='files', num_products=0)
  return WebShop(**options)


if __name__ == '__main__':
  main()
