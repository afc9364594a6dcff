"""One run, and what a back end makes of some: files and commands, no more."""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.configs import base

ROOT = pathlib.Path(__file__).resolve().parents[1]


class LaunchError(Exception):
  """Something that cannot be launched; the text says the cure."""


@dataclasses.dataclass(frozen=True)
class Job:
  """One run.

  Attributes:
    name: what people and schedulers call it.
    config: `file` or `file:variant`, as `experiments.train` takes it.
    run_dir: its folder, which all of its hosts reach.
    overrides: dotted field of the config -> plain value.
    hosts: machines that train it together; locally so many processes.
    env_servers: environment servers on each host; 0 plays as the config says.
    env: variable -> value, in all of its processes.
  """

  name: str
  config: str
  run_dir: str
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  hosts: int = 1
  env_servers: int = 0
  env: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    for field, least in (('hosts', 1), ('env_servers', 0)):
      value = getattr(self, field)
      if type(value) is not int or value < least:
        raise LaunchError(
          f'{self.name}: {field} is {value!r}; expected at least {least}.'
        )
    for variable, value in self.env.items():
      if not isinstance(value, str):
        raise LaunchError(
          f'{self.name}: env.{variable} is {value!r}; expected a text.'
        )

  @property
  def arguments(self) -> list[str]:
    """Those of `launch.host`, alike on all hosts."""
    fields = {**self.overrides, base.RUN_DIR: self.run_dir}
    return [
      f'--config={self.config}',
      *(f'--config.{field}={value}' for field, value in fields.items()),
      f'--env_servers={self.env_servers}',
    ]


@dataclasses.dataclass(frozen=True)
class Submission:
  """What a back end does with jobs.

  Attributes:
    files: path -> text, written before anything is run.
    commands: run one after another.
    hints: commands that people may want too, and what for.
  """

  files: Mapping[pathlib.Path, str] = dataclasses.field(default_factory=dict)
  commands: Sequence[Sequence[str]] = ()
  hints: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

  def __str__(self) -> str:
    files = [f'# {path}\n{text}' for path, text in self.files.items()]
    hints = [f'# {why}: {shlex.join(c)}' for why, c in self.hints.items()]
    return '\n'.join([*files, *map(shlex.join, self.commands), *hints])


def submit(plan: Submission) -> list[Job]:
  """Hands jobs to a scheduler, which plays them; so none has failed yet."""
  for path, text in plan.files.items():
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  for command in plan.commands:
    subprocess.run(command, check=True)
  return []
