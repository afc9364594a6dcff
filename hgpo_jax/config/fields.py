"""What a field of a config is, and sections that are read off signatures.

A section is a frozen dataclass whose fields come from `field`, so that value,
type, unit, meaning and kind of a field stand in one place. A field
`options` of a section is a mapping name -> section; its sections stand in the
dotted names, and in JSON, as if they were fields of the section itself.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, TypeGuard, TypeVar

from hgpo_jax.types import ConfigError

# What another value of a field means: another run; another speed, or rounding;
# another place where the run is, or writes.
Kind = Literal['identity', 'speed', 'place']
# What else holds of a field, beside its kind:
#   grows: a run may be resumed with another value, and is another run then;
#   per_process: each process of a run may have its own;
#   warm_start: the warm start depends on it;
#   budget: runs with other values are not compared.
Mark = Literal['grows', 'per_process', 'warm_start', 'budget']


Value = Any  # a plain value: bool, number, text, or a tuple of them
Hint = Any  # what an annotation may be, which `typing` has no name for


class Section(Protocol):
  """Any dataclass, as `dataclasses.fields` wants it."""

  __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


T = TypeVar('T', bound=Section)


def _is_section(value: object) -> TypeGuard[Section]:
  return dataclasses.is_dataclass(value)


@dataclasses.dataclass(frozen=True)
class About:
  """What is known of a field beside its type and its default.

  Attributes:
    doc: one line.
    kind: see `Kind`.
    marks: see `Mark`.
    unit: of the number; '' for names, switches and ratios.
    least, most: bounds of the number, both allowed; None checks neither.
    choices: the names that it may hold; empty where any will do.
    axis: what sweeps call it; '' where it is none of their axes.
  """

  doc: str
  kind: Kind = 'identity'
  marks: tuple[Mark, ...] = ()
  unit: str = ''
  least: float | None = None
  most: float = math.inf
  choices: tuple[str, ...] = ()
  axis: str = ''


def field(default: Value, doc: str, **about: Value) -> Any:
  """A field of a section; see `About`."""
  return dataclasses.field(
    default=default, metadata={'about': About(doc, **about)}
  )


def section(cls: type) -> Any:
  """A field that is a section of its own."""
  return dataclasses.field(default_factory=cls)


def default_of(
  fn: Callable[..., Any], name: str, doc: str, **about: Value
) -> Any:
  """A field whose default is that of an argument of `fn`."""
  return field(inspect.signature(fn).parameters[name].default, doc, **about)


@dataclasses.dataclass(frozen=True)
class Leaf:
  """A field of a whole config, with its value.

  Attributes:
    name: dotted, as flags give it.
    value, default: what it holds, and what it holds unless told otherwise.
    hint: its type.
    about: its meaning.
  """

  name: str
  value: Value
  default: Value
  hint: Hint
  about: About


def leaves(config: Section, prefix: str = '') -> Iterator[Leaf]:
  """Walks through all fields of a section, and of those below it."""
  hints = _hints(type(config))
  for f in dataclasses.fields(config):
    value = getattr(config, f.name)
    if _is_section(value):
      yield from leaves(value, f'{prefix}{f.name}.')
    elif f.name == 'options':
      for name, options in value.items():
        yield from leaves(options, f'{prefix}{name}.')
    else:
      about = f.metadata['about']
      yield Leaf(f'{prefix}{f.name}', value, f.default, hints[f.name], about)


def to_dict(config: Section) -> dict[str, Any]:
  """A section as nested dicts of plain values."""
  tree: dict[str, Any] = {}
  for f in dataclasses.fields(config):
    value = getattr(config, f.name)
    if f.name == 'options':
      tree |= {name: to_dict(options) for name, options in value.items()}
    else:
      tree[f.name] = to_dict(value) if _is_section(value) else value
  return tree


def filled(like: T, tree: Mapping[str, Any]) -> T:
  """A config like `like`, with the values of nested dicts put in.

  Raises: ConfigError with a line for each name that there is no field of, and
    each value of another type.
  """
  wrong: list[str] = []
  known = [leaf.name for leaf in leaves(like)]
  config: T = _filled(like, tree, '', known, wrong)
  if wrong:
    raise ConfigError('\n'.join(wrong))
  return config


def _filled(
  like: Section,
  tree: Mapping[str, Any],
  prefix: str,
  known: Sequence[str],
  wrong: list[str],
) -> Any:
  hints = _hints(type(like))
  changes: dict[str, Any] = {}
  options = dict(getattr(like, 'options', {}))
  for key, value in tree.items():
    name = prefix + key
    below = options.get(key) if key in options else getattr(like, key, None)
    if key not in options and (key not in hints or key == 'options'):
      wrong.append(unknown(name, known))
    elif not _is_section(below):
      try:
        changes[key] = converted(value, hints[key])
      except TypeError as error:
        wrong.append(f'{name} is {value!r}; expected {error}.')
    elif not isinstance(value, Mapping):
      wrong.append(f'{name} is {value!r}; expected the fields of a section.')
    else:
      target = options if key in options else changes
      target[key] = _filled(below, value, f'{name}.', known, wrong)
  if options:
    changes['options'] = types.MappingProxyType(options)
  return dataclasses.replace(like, **changes)


def unknown(name: str, known: Sequence[str]) -> str:
  """Says that no field has a name, and which names are near it."""
  last = name.rpartition('.')[2]
  near = difflib.get_close_matches(name, known, n=3, cutoff=0.7)
  same = [other for other in known if other.rpartition('.')[2] == last]
  near = list(dict.fromkeys([*near, *same]))[:3]
  hint = f'; did you mean {", ".join(near)}?' if near else '.'
  return f'no field is called {name!r}{hint}'


def converted(value: Value, hint: Hint) -> Value:
  """A value as its type has it: tuples for lists, floats for whole numbers.

  Raises: TypeError that says what was expected.
  """
  origin = _origin(hint)
  args = typing.get_args(hint)
  if hint is Any:
    return tuple(value) if isinstance(value, list) else value
  if origin is typing.Annotated:
    return converted(value, args[0])
  if origin in (types.UnionType, typing.Union):
    return _of_union(value, args)
  if origin is Literal:
    return converted(value, type(args[0]))
  if origin is not None and issubclass(origin, Sequence):
    if isinstance(value, (list, tuple)):
      return tuple(converted(x, args[0]) for x in value)
    raise TypeError(f'a tuple, such as ({value!r},)')
  if origin is not None:  # a generic type, whose parts are not looked at
    hint = origin
  number = isinstance(value, (int, float)) and not isinstance(value, bool)
  if hint is float and number:
    return float(value)
  if isinstance(value, hint) and (number or hint not in (int, float)):
    return value
  raise TypeError(f'a value of type {hint.__name__}')


def _of_union(value: Value, hints: Sequence[Hint]) -> Value:
  """A value as the first of several types has it that suits it."""
  if value is None and type(None) in hints:
    return None
  wrong: list[str] = []
  for hint in hints:
    if hint is not type(None):
      try:
        return converted(value, hint)
      except TypeError as error:
        wrong.append(str(error))
  raise TypeError(', or '.join(wrong))


def _origin(hint: Hint) -> Hint:
  return typing.get_origin(hint)


def type_name(hint: Hint) -> str:
  """A type as people write it."""
  args = typing.get_args(hint)
  if _origin(hint) is typing.Annotated:
    return type_name(args[0])
  if _origin(hint) is Literal:
    return ' | '.join(map(repr, args))
  if isinstance(hint, type) and not args:
    return hint.__name__
  return str(hint).replace('collections.abc.', '').replace('typing.', '')


def problems(config: Section) -> Iterator[str]:
  """Says which fields hold a value that they may not, each for itself."""
  for leaf in leaves(config):
    about, value, least = leaf.about, leaf.value, leaf.about.least
    choices = about.choices or (
      typing.get_args(leaf.hint) if _origin(leaf.hint) is Literal else ()
    )
    said = f'{leaf.name} is {value!r}; expected '
    if choices and value not in choices:
      yield f'{said}one of {sorted(choices)}.'
    elif least is not None and not least <= value <= about.most:
      finite = about.most < math.inf
      yield said + (
        f'{least} to {about.most}.' if finite else f'at least {least}.'
      )


def options_of(
  fn: Callable[..., Any],
  name: str = '',
  marks: tuple[Mark, ...] = (),
  **own: dataclasses.Field[Any],
) -> type:
  """A section that holds the options of a function, or of a class.

  Args:
    fn: its arguments that have a default are the options. A type may be
      `Annotated[..., kind]`.
    name: of the section; the function's by default.
    marks: of all of them.
    own: fields that the function lacks, or that have another default or
      meaning than its arguments.
  """
  target: Hint = fn  # a function, or the class whose arguments are __init__'s
  if isinstance(target, type):
    target = target.__init__  # type: ignore[misc]
  docs, hints = _documented(inspect.getdoc(target) or ''), _hints(target)
  fields: list[tuple[str, Hint, Any]] = []
  for p in inspect.signature(fn).parameters.values():
    if p.default is p.empty or p.name in own:
      continue
    hint = hints.get(p.name, _type_of(p.default))
    kind = getattr(hint, '__metadata__', ('identity',))[0]
    kept = () if kind == 'speed' else marks
    doc = docs.get(p.name, '')
    fields.append((p.name, hint, field(p.default, doc, kind=kind, marks=kept)))
  fields += [(key, _type_of(f.default), f) for key, f in own.items()]
  return dataclasses.make_dataclass(name or fn.__name__, fields, frozen=True)


def _type_of(default: Value) -> Hint:
  """The type of an option that names none; None may stand for any."""
  return Any if default is None else type(default)


def _documented(text: str) -> dict[str, str]:
  """The first sentence of each of the `Args:` of a docstring, by name."""
  args = re.search(r'^Args:(.*?)(?=^\S|\Z)', text, re.S | re.M)
  docs: dict[str, str] = {}
  for names, doc in re.findall(
    r'^ {2}(\w[\w, ]*): (.*?)(?=^ {2}\w|\Z)',
    args[1] if args else '',
    re.S | re.M,
  ):
    line = ' '.join(doc.split()).partition('. ')[0].rstrip('.')
    docs |= dict.fromkeys(names.split(', '), line)
  return docs


def _hints(of: Hint) -> dict[str, Any]:
  try:
    return typing.get_type_hints(of, include_extras=True)
  except NameError:  # a name that is known to type checkers alone
    return {}
