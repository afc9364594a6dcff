r"""Serves a world to other processes and machines.

  python -m envs.serve --world=alfworld --options='{"max_turns": 50}'
  python -m envs.serve --world=webshop --host=0.0.0.0 --port=7000 \
    --token_file=token.txt --certificate=server.pem --key=server.key

Prints one line when it is ready, with its port, and serves until SIGTERM or
Ctrl-C. `--world=my_module:MyWorld` serves a class of your own; what worlds
print goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time

from envs import registry
from envs.base import EnvError
from envs.serving import identity, server

_STOP = 2.0  # seconds to end in


def main(argv: list[str] | None = None) -> None:
  """Serves until it is told to stop; None takes the command line."""
  args = _parser().parse_args(argv)
  # The line that says where it serves is the only one on stdout: what worlds
  # print, from C too, goes to stderr.
  stdout = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  ended = threading.Event()
  if args.until_stdin_ends:
    threading.Thread(target=_await_end, args=(ended,), daemon=True).start()
  try:
    world = registry.make_world(args.world, args.options)
    serving = server.start(
      world.make_env,
      identity.identify(args.world, args.options, world),
      server.Access(
        args.host,
        args.port,
        server.read_token(args.token_file),
        server.read_pem(args.key),
        server.read_pem(args.certificate),
      ),
      args.max_requests,
    )
  except (EnvError, OSError) as error:
    sys.exit(f'{type(error).__name__}: {error}')
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: ended.set())
  print(
    f'serving {args.world} on {args.host}:{serving.port}',
    file=stdout,
    flush=True,
  )
  ended.wait()
  serving.stop()
  os._exit(0)  # a world that never answers must not keep the process


def _await_end(ended: threading.Event) -> None:
  """Ends the process when the other end of stdin is closed."""
  while os.read(0, 1024):
    pass
  ended.set()
  time.sleep(_STOP)
  os._exit(0)  # it does not serve yet


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m envs.serve', description=(__doc__ or '').splitlines()[0]
  )
  add = parser.add_argument
  add('--world', required=True, help='a name in the registry, or module:Class')
  add('--options', type=json.loads, default={}, help='of the world, as JSON')
  add('--host', default='127.0.0.1', help='any but loopback needs a token')
  add('--port', type=int, default=0, help='0 takes any that is free')
  add('--token_file', default='', help='holds the secret of its clients')
  add('--certificate', default='', help='PEM file; with --key it means TLS')
  add('--key', default='', help='PEM file')
  add('--max_requests', type=int, default=16, help='in work at once')
  add('--until_stdin_ends', action='store_true', help='end with its parent')
  return parser


if __name__ == '__main__':
  main()
