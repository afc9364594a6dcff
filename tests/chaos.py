"""Servers that are killed, stopped and cut off while a client plays."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import threading
import time

from envs.serving import local

FAULTS = ('kill', 'stop', 'cut')


class Wire:
  """A TCP relay to a server; a cut one drops its connections and takes none."""

  def __init__(self, target: str):
    host, _, port = target.rpartition(':')
    self._target = host, int(port)
    self._open: set[socket.socket] = set()
    self._listener: socket.socket | None = None
    self.address = f'127.0.0.1:{self._listen(0)}'

  def mend(self) -> None:
    self._listen(int(self.address.rpartition(':')[2]))

  def cut(self) -> None:
    listener, self._listener = self._listener, None
    for each in filter(None, (listener, *self._open)):
      with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
      each.close()
    self._open.clear()

  def _listen(self, port: int) -> int:
    self._listener = socket.create_server(('127.0.0.1', port))
    threading.Thread(
      target=self._accept, args=(self._listener,), daemon=True
    ).start()
    return self._listener.getsockname()[1]

  def _accept(self, listener: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it was cut
      while True:
        near, _ = listener.accept()
        try:
          far = socket.create_connection(self._target, 5)
        except OSError:  # the server is dead
          near.close()
          continue
        self._open |= {near, far}
        for pair in ((near, far), (far, near)):
          threading.Thread(target=self._relay, args=pair, daemon=True).start()

  def _relay(self, source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
      while data := source.recv(2**16):
        sink.sendall(data)
    for each in (source, sink):
      self._open.discard(each)
      with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
      each.close()


class Chaos:
  """Server processes behind wires that can be broken."""

  def __init__(self, servers: int, world: str, options: dict, seed: int = 0):
    self._rng = random.Random(seed)
    with contextlib.ExitStack() as started:
      self.servers = [
        started.enter_context(local.LocalServer(world, options))
        for _ in range(servers)
      ]
      self.wires = [Wire(server.ready()) for server in self.servers]
      self._exit = started.pop_all()
    self._healthy = set(range(servers))
    self._threads: list[threading.Thread] = []
    self.struck: list[str] = []

  @property
  def addresses(self) -> tuple[str, ...]:
    return tuple(wire.address for wire in self.wires)

  def strike(self, kind: str, delay: float, seconds: float) -> None:
    """Breaks a healthy server after `delay`, for `seconds`; does not wait."""
    while not self._healthy:
      time.sleep(0.01)
    number = self._rng.choice(sorted(self._healthy))
    self._healthy.remove(number)
    self.struck.append(kind)
    thread = threading.Thread(
      target=self._break, args=(kind, number, delay, seconds)
    )
    self._threads.append(thread)
    thread.start()

  def _break(
    self, kind: str, number: int, delay: float, seconds: float
  ) -> None:
    server, wire = self.servers[number], self.wires[number]
    time.sleep(delay)
    if kind == 'kill':
      server.kill()
      time.sleep(seconds)
      server.restart()
      server.ready()
    elif kind == 'stop':
      server.process.send_signal(signal.SIGSTOP)
      time.sleep(seconds)
      server.process.send_signal(signal.SIGCONT)
    else:
      wire.cut()
      time.sleep(seconds)
      wire.mend()
    self._healthy.add(number)

  def __enter__(self) -> Chaos:
    return self

  def __exit__(self, *_: object) -> None:
    for thread in self._threads:
      thread.join()
    for wire in self.wires:
      wire.cut()
    self._exit.close()
