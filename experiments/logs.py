"""Processes that write to files of their own."""

from __future__ import annotations

import datetime
import os
import pathlib
import shlex
import subprocess
from collections.abc import Mapping, Sequence


def popen(
  command: Sequence[str],
  log: pathlib.Path,
  env: Mapping[str, str] | None = None,
  pass_fds: Sequence[int] = (),
  stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
  """Starts a process that appends to `log`, below a line that says so."""
  log.parent.mkdir(parents=True, exist_ok=True)
  now = datetime.datetime.now().isoformat(' ', 'seconds')
  with log.open('ab') as file:
    file.write(f'\n==== {now} {shlex.join(command)}\n'.encode())
    file.flush()
    # A session of its own: Ctrl-C is for us, and passed on once.
    return subprocess.Popen(
      command,
      stdin=stdin,
      stdout=file,
      stderr=subprocess.STDOUT,
      env={**os.environ, **(env or {})},
      pass_fds=pass_fds,
      start_new_session=True,
    )


def tail(log: pathlib.Path, lines: int = 5) -> str:
  """Returns the end of a log, without what progress bars have overwritten."""
  text = log.read_text(errors='replace').replace('\r', '\n')
  last = [line for line in text.split('\n') if line.strip()][-lines:]
  return '\n'.join([f'{log} ends with', *last])
