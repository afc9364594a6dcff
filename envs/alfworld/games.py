"""Game files: finding, reading and writing them as alfworld lays them out.

`<root>/json_2.1.1/<split>/<task>/<trial>/game.tw-pddl`, JSON with the keys
`pddl_domain`, `grammar`, `pddl_problem`, `solvable` and `walkthrough`, and
beside it `traj_data.json` with the task's type.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from envs.alfworld.game import TASK_TYPES, Game
from envs.base import GameError, UnknownTask

_VERSION, _GAME, _TRAJECTORY = 'json_2.1.1', 'game.tw-pddl', 'traj_data.json'
# Tasks that alfworld itself leaves out, by a word in their path.
_LEFT_OUT = ('movable', 'Sliced')
_TAIL_BYTES = 16384  # `solvable` and `walkthrough` are a file's last keys
_CURE = (
  'Run `alfworld-download` (of `pip install alfworld`) and set ALFWORLD_DATA '
  'to the folder that holds json_2.1.1/, or generate games instead.'
)


def load_games(
  root: str | Path | None,
  split: str,
  task_types: Collection[str] = TASK_TYPES,
) -> tuple[Path, ...]:
  """Lists the solvable games of a split; `read_game` reads one.

  Args:
    root: the folder that holds `json_2.1.1/`; None takes `$ALFWORLD_DATA`.
    split: a folder in it, such as `train`, `valid_seen` or `valid_unseen`.
    task_types: those to keep.

  Returns: paths in the order of their text relative to the split, which is the
    same on every machine. No game is parsed for this.
  Raises: UnknownTask where there is no such split beside others; GameError
    where the folder or the games are missing.
  """
  folder = _split_folder(root, split)
  files = sorted(
    (path.relative_to(folder).as_posix(), path)
    for path in folder.glob(f'*/*/{_GAME}')
  )
  games = tuple(
    path
    for name, path in files
    if not any(word in name for word in _LEFT_OUT)
    and task_type(path) in task_types
    and _solvable(path)
  )
  if not games:
    raise GameError(
      f'{folder} has {len(files)} game files, but no solvable one of '
      f'{", ".join(task_types)}. {_CURE}'
    )
  return games


def read_game(path: str | Path) -> Game:
  """Reads one `game.tw-pddl`; raises GameError if it is missing or damaged."""
  path = Path(path)
  content = _read_json(path)
  texts: list[str] = []
  for key in ('pddl_domain', 'grammar', 'pddl_problem'):
    text = content.get(key)
    if not isinstance(text, str):
      raise GameError(
        f'{path} has no text {key!r}; it has {sorted(content)}. {_CURE}'
      )
    texts.append(text)
  domain, grammar, problem = texts
  return Game(
    name='/'.join(path.parts[-3:-1]),
    task_type=task_type(path),
    domain=domain,
    grammar=grammar,
    problem=problem,
    walkthrough=tuple(content.get('walkthrough') or ()),
  )


def write_game(game: Game, root: str | Path, split: str) -> Path:
  """Writes a game where `load_games` and the alfworld package find it.

  Args:
    game: its name is `<task>/<trial>`, as generated and released games have it.
    root: becomes the folder that holds `json_2.1.1/`.
    split: such as `train`.

  Returns: the path of the new `game.tw-pddl`.
  """
  task, _, trial = game.name.partition('/')
  fields = task.split('-')
  known = len(fields) == 5 and fields[4].isdecimal()
  if not known or not trial or '/' in trial:
    raise GameError(
      f'Cannot file a game named {game.name!r}; expected '
      '<type>-<object>-<vessel>-<receptacle>-<floor plan>/<trial>.'
    )
  folder = Path(root, _VERSION, split, task, trial)
  folder.mkdir(parents=True, exist_ok=True)
  content = {
    'pddl_domain': game.domain,
    'grammar': game.grammar,
    'pddl_problem': game.problem,
    'solvable': True,
    'walkthrough': list(game.walkthrough),
  }
  (folder / _GAME).write_text(json.dumps(content), encoding='utf-8')
  (folder / _TRAJECTORY).write_text(
    json.dumps(_trajectory(fields, trial)), encoding='utf-8'
  )
  return folder / _GAME


def _trajectory(fields: list[str], trial: str) -> dict[str, Any]:
  """What alfworld reads of a `traj_data.json`."""
  kind, target, vessel, destination, plan = fields
  light = kind == 'look_at_obj_in_light'
  return {
    'task_type': kind,
    'task_id': trial,
    'pddl_params': {
      'object_target': target,
      'mrecep_target': '' if vessel == 'None' else vessel,
      'parent_target': '' if light else destination,
      'toggle_target': destination if light else '',
      'object_sliced': False,
    },
    'scene': {'scene_num': int(plan), 'floor_plan': f'FloorPlan{plan}'},
    'turk_annotations': {'anns': []},
  }


def _split_folder(root: str | Path | None, split: str) -> Path:
  root = root or os.environ.get('ALFWORLD_DATA')
  if not root:
    raise GameError(f'ALFWORLD_DATA is not set. {_CURE}')
  folder = Path(os.path.expandvars(root), _VERSION).expanduser()
  splits = sorted(x.name for x in folder.glob('*') if x.is_dir())
  if not splits:
    raise GameError(f'{folder} does not exist or has no splits. {_CURE}')
  if split not in splits:
    raise UnknownTask(
      f'{folder} has no split {split!r}; it has {", ".join(splits)}. {_CURE}'
    )
  return folder / split


def task_type(path: Path) -> str:
  """A game's type: by its folder, as released, else by `traj_data.json`."""
  named = path.parts[-3].partition('-')[0] if len(path.parts) > 2 else ''
  if named in TASK_TYPES:
    return named
  return str(_read_json(path.with_name(_TRAJECTORY)).get('task_type'))


def _solvable(path: Path) -> bool:
  """Whether the file says so; read from its tail, as thousands are asked."""
  try:
    with path.open('rb') as file:
      file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
      tail = file.read()
  except OSError as error:
    raise GameError(f'{path} cannot be read ({error}). {_CURE}') from error
  # A quote inside a JSON string is escaped, so this can only be the key.
  said = re.findall(rb'(?<!\\)"solvable"\s*:\s*(true|false)', tail)
  if said:
    return said[-1] == b'true'
  return _read_json(path).get('solvable') is True


def _read_json(path: Path) -> dict[str, Any]:
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise GameError(f'{path} does not exist. {_CURE}') from None
  except OSError as error:
    raise GameError(f'{path} cannot be read ({error}). {_CURE}') from error
  except ValueError as error:
    raise GameError(
      f'{path} is not JSON ({error}); the download may be cut off. {_CURE}'
    ) from error
  if not isinstance(content, dict):
    raise GameError(f'{path} holds {type(content).__name__}, not a game.')
  return content
