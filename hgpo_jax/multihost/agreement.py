"""What the processes of one run must have in common before they start.

Each has its own command line and file system; where those differ, one process
would wait for ever for a call that another does not make. All processes call
these functions, and all of them raise the same error.
"""

from __future__ import annotations

import json
import pathlib

from hgpo_jax import config as config_lib
from hgpo_jax import types
from hgpo_jax.config import Config
from hgpo_jax.multihost import hosts
from hgpo_jax.train import checkpoint


def same_config(config: Config) -> None:
  """Raises ConfigError where processes were given different configs."""
  configs = hosts.gather(json.dumps(config.to_dict()).encode())
  first, *others = map(json.loads, configs)
  wrong = [
    f'process {number}: {"; ".join(different)}'
    for number, other in enumerate(others, 1)
    if (
      different := config_lib.differences(
        first, other, config_lib.same_processes, config
      )
    )
  ]
  if wrong:
    raise types.ConfigError(
      'the processes of a run were given different configs (process 0 -> '
      f'another): {", ".join(wrong)}. Give all of them the same.'
    )


def newest(store: checkpoint.Checkpoints) -> int | None:
  """Returns the newest step of a run, None if there is none.

  Raises: CheckpointError where processes see different ones.
  """
  own = store.latest()
  steps = [x.decode() for x in hosts.gather(str(own).encode())]
  if len(set(steps)) > 1:
    raise checkpoint.CheckpointError(
      f'the newest steps in {store.folder} are, as the processes see it, '
      f'{", ".join(steps)}. {_SHARE}'
    )
  return own


def shared(written: pathlib.Path) -> None:
  """Raises CheckpointError unless all see the file that the first one wrote."""
  hosts.wait('the first process has written')
  if hosts.any_process(not written.exists()):
    raise checkpoint.CheckpointError(
      f'{written} was written by process 0, and others do not see it. {_SHARE}'
    )


_SHARE = 'Give a run_dir on a file system that all processes share.'
