"""When, where and with which code runs were made."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import folders

_FILE = 'sessions.jsonl'


def describe(module: str, arguments: Sequence[str]) -> dict[str, Any]:
  """Returns what a reader needs to repeat a command and to compare seconds."""
  return {
    'command': shlex.join(['python', '-m', module, *arguments]),
    'date': datetime.date.today().isoformat(),
    'commit': _commit(),
    'cores': len(os.sched_getaffinity(0)),
    'cpu': _cpu(),
  }


def append(folder: pathlib.Path, record: dict[str, Any]) -> None:
  """Adds a session to those that made the results in a folder."""
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / _FILE).open('a', encoding='utf-8') as file:
    file.write(json.dumps(record) + '\n')


def lines(records: Sequence[Mapping[str, Any]]) -> list[str]:
  """One line of Markdown per session; `note` is what else is known of it."""
  return [
    f'- {s["date"]}, commit {s["commit"]}, {s["cores"]} cores of {s["cpu"]}: '
    f'`{s["command"]}`' + (f'; {s["note"]}' if 'note' in s else '')
    for s in records
  ]


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Reads the sessions of a folder, in the order in which they were."""
  path = folder / _FILE
  return folders.read_lines(path) if path.exists() else []


def _commit() -> str:
  """The checkout's commit, with `-dirty` where files differ from it."""
  here = pathlib.Path(__file__).parent
  try:
    return subprocess.run(
      ['git', 'describe', '--always', '--dirty', '--abbrev=12'],
      cwd=here,
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return 'unknown'


def _cpu() -> str:
  path = pathlib.Path('/proc/cpuinfo')
  if path.exists():
    for line in path.read_text().splitlines():
      if line.startswith('model name'):
        return line.partition(':')[2].strip()
  return platform.processor() or 'unknown'
