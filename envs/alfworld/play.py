"""Play ALFWorld by hand: `python -m envs.alfworld.play --task=3`.

A line is an action, such as `go to fridge 1`, or the number of one that is
listed. Games are generated, or with `--data=files` the released ones.
"""

from __future__ import annotations

from envs import play
from envs.alfworld.env import AlfWorld


def main(argv: list[str] | None = None) -> None:
  """Plays a task with the options of `AlfWorld`."""
  play.main(AlfWorld, __doc__ or '', argv, family='easy')


if __name__ == '__main__':
  main()
