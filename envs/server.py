"""Many environments in a process of their own, behind lines of JSON.

  python -m envs.server --world=toy --config='{"num_words": 4}'

Every request is one line on stdin and gets one line on stdout, with its id:

  {"id": 0, "kind": "hello", "protocol": 1}
  {"id": 0, "kind": "hello", "protocol": 1, "world": "toy", "config": {...}}
  {"id": 1, "kind": "step", "slots": {"0": {"task": ["train", 3]},
                                      "4": {"action": "look"}}}
  {"id": 1, "kind": "step", "slots": {"0": {"observation": ..., ...},
                                      "4": {"error": "ResetNeeded",
                                            "message": ...}}}
  {"id": 2, "kind": "close"}

A slot is one environment, made when it is first named. A request that is not
understood is answered with `{"kind": "error", "error": ..., "message": ...}`
and the server lives on; it ends at `close` and when stdin ends, so it does not
outlive its client. Text is ASCII with escapes: whatever a world or a policy
writes survives any locale. What worlds print goes to stderr.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import IO, Any

from envs import registry
from envs.base import EnvError, ServerError, Step, Task, TextEnv
from envs.world import World

PROTOCOL = 1
_STEP_FIELDS = {field.name for field in dataclasses.fields(Step)}


class Slots:
  """Environments by slot number; the whole state of a server."""

  def __init__(self, make_env: Callable[[], TextEnv]):
    """Takes what makes the environment of a slot that is named first."""
    self._make_env = make_env
    self._envs: dict[int, TextEnv] = {}

  def play(
    self, requests: Mapping[int, Task | str]
  ) -> dict[int, Step | EnvError]:
    """Resets or steps every slot; an error stands in its slot's place.

    An exception that is no `EnvError` is a defect of the world; it comes back
    as a `ServerError` with its traceback.
    """
    return {slot: self._play_one(slot, requests[slot]) for slot in requests}

  def _play_one(self, slot: int, request: Task | str) -> Step | EnvError:
    try:
      if slot not in self._envs:
        self._envs[slot] = self._make_env()
      env = self._envs[slot]
      if isinstance(request, str):
        return env.step(request)
      return env.reset(request)
    except EnvError as error:
      return error
    except Exception:
      return ServerError(
        f'slot {slot} failed at {request!r}; this is a defect of its world:\n'
        + traceback.format_exc()
      )


# ---- the wire: plain JSON values <-> records --------------------------------


def pack_request(request: Task | str) -> dict[str, Any]:
  if isinstance(request, str):
    return {'action': request}
  return {'task': [request.split, request.index]}


def unpack_request(packed: Any) -> Task | str:
  """Raises ServerError unless `packed` came from `pack_request`."""
  match packed:
    case {'action': str(action), **rest} if not rest:
      return action
    case {'task': [str(split), int(index)], **rest} if not rest:
      return Task(split, index)
  raise ServerError(
    f'not a request for a slot: {_short(packed)}; expected '
    '{"action": text} or {"task": [split, index]}.'
  )


def pack_answer(answer: Step | EnvError) -> dict[str, Any]:
  if isinstance(answer, Step):
    return vars(answer)
  return {'error': type(answer).__name__, 'message': str(answer)}


def unpack_answer(packed: Any) -> Step | EnvError:
  """Returns the step or the error; ServerError where it is neither."""
  match packed:
    case {'error': str(name), 'message': str(message)}:
      kind = error_kinds().get(name)
      return kind(message) if kind else ServerError(f'{name}: {message}')
    case {'admissible': list(admissible)} if packed.keys() == _STEP_FIELDS:
      return Step(**{**packed, 'admissible': tuple(admissible)})
  return ServerError(
    f'not an answer for a slot: {_short(packed)}; expected the fields of Step. '
    'Do client and server run the same version?'
  )


def error_kinds() -> dict[str, type[EnvError]]:
  """Every named error that this process knows, by class name."""
  kinds, found = [EnvError], {}
  while kinds:
    kind = kinds.pop()
    found[kind.__name__] = kind
    kinds += kind.__subclasses__()
  return found


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 200 else text[:200] + '...'


# ---- the loop ---------------------------------------------------------------


def answer(
  message: Mapping[str, Any], slots: Slots, about: Mapping[str, Any]
) -> dict[str, Any]:
  """Answers one request; raises ServerError where it is not understood.

  Args:
    message: the request.
    slots: the environments.
    about: what `hello` tells of this server.
  """
  match message:
    case {'kind': 'hello', 'protocol': protocol}:
      if protocol != PROTOCOL:
        raise ServerError(
          f'the client speaks protocol {protocol}, this server {PROTOCOL}: '
          'run the same version on both sides.'
        )
      return {'kind': 'hello', 'protocol': PROTOCOL, **about}
    case {'kind': 'step', 'slots': dict(packed)}:
      requests = {
        _slot(slot): unpack_request(request) for slot, request in packed.items()
      }
      answers = slots.play(requests)
      return {
        'kind': 'step',
        'slots': {slot: pack_answer(a) for slot, a in answers.items()},
      }
    case {'kind': 'close'}:
      return {'kind': 'close'}
  raise ServerError(
    f'not a request: {_short(message)}; expected an object of kind "hello" '
    'with protocol, "step" with slots, or "close".'
  )


def _slot(key: str) -> int:
  if not key.isascii() or not key.isdigit():
    raise ServerError(f'slot {key!r}: expected a number from 0.')
  return int(key)


def serve(
  requests: IO[str],
  answers: IO[str],
  make_env: Callable[[], TextEnv],
  about: Mapping[str, Any],
) -> None:
  """Answers line by line until `close` or the end of `requests`.

  Args:
    requests: lines of JSON.
    answers: gets one line for each.
    make_env: makes the environment of a slot.
    about: what `hello` tells of this server.
  """
  slots = Slots(make_env)
  for line in requests:
    number = None
    try:
      message = _parse(line)
      number = message.get('id')
      reply = answer(message, slots, about)
    except ServerError as error:
      reply = {'kind': 'error', **pack_answer(error)}
    answers.write(json.dumps({'id': number, **reply}) + '\n')
    answers.flush()
    if reply['kind'] == 'close':
      return


def _parse(line: str) -> dict[str, Any]:
  try:
    message = json.loads(line)
  except (ValueError, RecursionError) as error:
    raise ServerError(
      f'not JSON ({error}): {_short(line)}; expected one object a line.'
    ) from None
  if not isinstance(message, dict):
    raise ServerError(f'{_short(message)}: expected a JSON object.')
  return message


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--world', required=True, help='a name in the registry')
  parser.add_argument(
    '--config', type=json.loads, default={}, help="the world's options, JSON"
  )
  args = parser.parse_args(argv)
  # The protocol keeps the real stdout for itself; whatever a world or a
  # library prints, from C too, goes to stderr and cannot break a line of it.
  stdin = io.TextIOWrapper(sys.stdin.buffer, 'utf-8', errors='replace')
  sys.stdout.flush()
  stdout = os.fdopen(os.dup(1), 'w', encoding='ascii')
  os.dup2(2, 1)

  # One world for all slots, which may share its games; made with the first of
  # them, so that the client is told by name what is wrong with its options.
  @functools.cache
  def world() -> World:
    return registry.make_world(args.world, args.config)

  serve(
    stdin,
    stdout,
    lambda: world().make_env(),
    {'world': args.world, 'config': args.config},
  )


if __name__ == '__main__':
  main()
