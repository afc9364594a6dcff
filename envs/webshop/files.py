"""JSON files of any size: an array's elements are read one at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from envs.base import GameError

_CHUNK = 2**20  # characters read at a time
_LONGEST = 2**26  # characters of one element; WebShop's have 10^5 at most
_SPACE, _END = re.compile(r'\s*'), re.compile(r'\s*([,\]])')


class CatalogError(GameError):
  """A catalogue file is missing, damaged, or says what cannot be."""


def short(value: Any) -> str:
  """Returns a value as an error message shows it."""
  text = repr(value)
  return text if len(text) <= 100 else text[:100] + '...'


def read_object(path: Path) -> dict[str, Any]:
  """Returns the JSON object in a file; raises CatalogError."""

  def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
      if name in result:
        raise CatalogError(f'{path}: {name!r} is there twice; remove one.')
      result[name] = value
    return result

  try:
    text = path.read_text(encoding='utf-8-sig')
    value = json.loads(text, object_pairs_hook=unique)
  except (OSError, ValueError, RecursionError) as error:
    raise CatalogError(
      f'{path}: {error}; expected a whole JSON object. Is the file there, and '
      'was it downloaded to its end?'
    ) from error
  if not isinstance(value, dict):
    raise CatalogError(f'{path}: got {short(value)}, expected a JSON object.')
  return value


def read_array(path: Path) -> Iterator[Any]:
  """Yields the elements of the JSON array in a file; raises CatalogError."""
  number, text = 0, ''
  try:
    with open(path, encoding='utf-8-sig') as file:
      opening = file.read(1)
      while opening.isspace():
        opening = file.read(1)
      if opening != '[':
        raise CatalogError(
          f'{path}: it starts with {opening!r}, expected [ as in a JSON array.'
        )
      while (chunk := file.read(_CHUNK)) and len(text) <= _LONGEST:
        values, text = _whole(text + chunk)
        yield from values
        number += len(values)
  except (OSError, UnicodeDecodeError) as error:
    raise CatalogError(f'{path}: product {number}: {error}.') from error
  if text.strip() != ']':
    raise CatalogError(
      f'{path}: product {number}: the list breaks off or is no JSON at '
      f'{short(text)}; expected a whole JSON array. Download it again.'
    )


def _whole(text: str) -> tuple[list[Any], str]:
  """Splits text into its whole elements and what is left of it."""
  decode = json.JSONDecoder().raw_decode
  values: list[Any] = []
  start = 0
  while start < len(text):
    begin = _SPACE.match(text, start).end()  # type: ignore[union-attr]
    try:
      value, end = decode(text, begin)
    except (ValueError, RecursionError):  # it may go on in the next chunk
      break
    mark = _END.match(text, end)
    if not mark:
      break
    values.append(value)
    start = mark.end()
    if mark.group(1) == ']':
      return values, text[start - 1 :]
  return values, text[start:]
