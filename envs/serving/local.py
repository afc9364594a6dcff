"""Remote servers on this machine: for tests, benchmarks and single hosts."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Self

from envs.base import ServerError


def command(world: str, options: Mapping[str, Any]) -> list[str]:
  """What serves a world with these options, as JSON values.

  Its stdin has to be a pipe; it ends when nobody holds the other end.
  """
  return [
    sys.executable, '-m', 'envs.serve', f'--world={world}',
    f'--options={json.dumps(options)}', '--until_stdin_ends',
  ]  # fmt: skip


class LocalServer:
  """`python -m envs.serve` as a process that can be started again."""

  def __init__(
    self, world: str, options: Mapping[str, Any], more: Sequence[str] = ()
  ):
    """Starts a server at a free port of loopback; `ready` waits for it.

    Args:
      world: its name in the registry.
      options: its options, as JSON values.
      more: further arguments of `envs.serve`.
    """
    self._command = [*command(world, options), *more]
    self._port = 0
    self.process = self._start()

  def ready(self) -> str:
    """Waits until it serves; returns its address."""
    assert self.process.stdout is not None
    line = self.process.stdout.readline()
    if not line.startswith('serving '):
      raise ServerError(
        f'an environment server did not start: {self._command} ended with exit '
        f'code {self.process.wait()}; stderr says why.'
      )
    address = line.split()[-1]
    self._port = int(address.rpartition(':')[2])
    return address

  def restart(self) -> None:
    """Kills it if it still runs, and starts it at the same port."""
    self.kill()
    self.process = self._start()

  def kill(self) -> None:
    """SIGKILL, as when its machine is taken away."""
    self.process.kill()
    self.process.wait()
    for pipe in (self.process.stdin, self.process.stdout):
      assert pipe is not None
      pipe.close()

  def _start(self) -> subprocess.Popen[str]:
    root = str(pathlib.Path(__file__).resolve().parents[2])
    path = [root, *filter(None, [os.environ.get('PYTHONPATH')])]
    return subprocess.Popen(
      [*self._command, f'--port={self._port}'],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env={**os.environ, 'PYTHONPATH': os.pathsep.join(path)},
      start_new_session=True,  # Ctrl-C is for the trainer
    )

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self.kill()
