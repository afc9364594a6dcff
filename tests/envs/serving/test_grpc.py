"""Servers of environments: whom they refuse, and that they live on."""

import random
import socket
import subprocess
import threading

import grpc
import pytest

from envs import registry, serve
from envs.base import (
  BadOptions,
  Task,
  UnknownTask,
)
from envs.serving import client, fleet, identity, protocol, server
from envs.toy import GuessEnv
from tests.serving import TOKEN, Serving, connect, refusal, who


def test_bad_bytes_are_refused_and_the_server_lives_on():
  good = protocol.encode(
    protocol.Play('me', who(), {0: protocol.Episode(1, Task('train', 0))})
  )
  with Serving() as a:
    for data in (b'', b'\xc1', good[:-3], good + b'x', b'\x91' * 10_000):
      for method in ('Hello', 'Play', 'Leave'):
        code, text = refusal(a, method, data)
        assert code == 'INVALID_ARGUMENT'
        assert text
    code, _ = refusal(a, 'Play', bytes(protocol.MAX_BYTES + 2048))
    assert code == 'RESOURCE_EXHAUSTED'  # gRPC's own: it was never read
    code, _ = refusal(a, 'Dance', b'')
    assert code == 'UNIMPLEMENTED'
    found = protocol.decode_answers(a.call('Play', good))
    assert found[0].observation == 'Say red.'


def test_a_server_outlives_fuzzed_requests():
  rng = random.Random(0)
  good = protocol.encode(
    protocol.Play(
      'me', who(), {0: protocol.Episode(1, Task('train', 0), ('red',))}
    )
  )
  codes = set()
  with Serving() as a:
    for _ in range(300):
      data = bytearray(good[: rng.randint(0, len(good))] or b'x')
      data[rng.randrange(len(data))] = rng.randrange(256)
      try:
        a.call(rng.choice(('Hello', 'Play', 'Leave')), bytes(data))
      except grpc.RpcError as error:
        codes.add(error.code().name)
    assert codes <= {'INVALID_ARGUMENT', 'FAILED_PRECONDITION'}
    assert protocol.decode_answers(a.call('Play', good))[0] is not None


def test_other_protocols_and_worlds_are_refused(monkeypatch):
  envs = {0: protocol.Episode(1, Task('train', 0))}
  with Serving() as a:
    other = protocol.encode(protocol.Play('me', who(num_words=3), envs))
    code, text = refusal(a, 'Play', other)
    assert code == 'FAILED_PRECONDITION'
    assert '{"num_words": 4}' in text
    assert '{"num_words": 3}' in text
    with monkeypatch.context() as patch:
      patch.setattr(protocol, 'PROTOCOL', 99)
      hello = protocol.encode(protocol.Hello())
    code, text = refusal(a, 'Hello', hello)
    assert code == 'FAILED_PRECONDITION'
    assert 'protocol 99, expected 2' in text


def test_a_token_is_demanded_and_checked():
  with Serving(access=server.Access(token=TOKEN)) as a:
    for given in ({}, {'metadata': (('authorization', 'Bearer no'),)}):
      code, text = refusal(
        a, 'Hello', protocol.encode(protocol.Hello()), **given
      )
      assert code == 'UNAUTHENTICATED'
      assert 'token' in text
    with pytest.raises(fleet.ServersLost, match='UNAUTHENTICATED'):
      connect(a.address, timeout=60, patience=60)
    with connect(a.address, credentials=fleet.Credentials(TOKEN)) as envs:
      assert envs({0: Task('train', 0)})[0].observation == 'Say red.'


def test_strangers_hold_no_thread():
  """Calls whose message never comes; they may well outnumber the threads."""
  never, access = threading.Event(), server.Access(token=TOKEN)

  def stalled():
    never.wait(30)
    yield b''

  with Serving(access=access, max_requests=1) as a:
    calls = [
      a.channel.stream_unary(f'/{service}/{method}').future(stalled())
      for service, method in [
        (server.SERVICE, 'Play'),
        (server.HEALTH, 'Check'),
      ]
      * 10
    ]
    with connect(a.address, credentials=fleet.Credentials(TOKEN)) as envs:
      assert envs({0: Task('train', 0)})[0].observation == 'Say red.'
    assert a.call('Check', b'', service=server.HEALTH)
    never.set()
    assert all(call.exception(10) for call in calls[::2])


def test_only_loopback_goes_without_a_token():
  for host in ('127.0.0.1', '::1', '[::1]', 'localhost'):
    server.Access(host)
  for host in ('0.0.0.0', '::', '10.1.2.3', 'a.name', ''):
    with pytest.raises(BadOptions, match='no token'):
      server.Access(host)
    server.Access(host, token=TOKEN)
  with pytest.raises(BadOptions, match='both'):
    server.Access(key=b'key')


def test_tokens_are_read_from_files(tmp_path):
  path = tmp_path / 'token'
  assert server.read_token('') == ''
  path.write_text(TOKEN + '\n')
  assert server.read_token(str(path)) == TOKEN
  for bad in ('', 'short', 'naïve, but long enough', 'two\nlines of a token'):
    path.write_text(bad)
    with pytest.raises(BadOptions, match='at least 16'):
      server.read_token(str(path))


def test_a_certificate_that_is_none_does_not_turn_tls_off(tmp_path):
  path = tmp_path / 'ca.pem'
  path.write_text('')
  with pytest.raises(BadOptions, match='holds no PEM'):
    client.read_credentials('', str(path))
  with pytest.raises(SystemExit, match='holds no PEM'):
    serve.main(['--world=toy', f'--key={path}', f'--certificate={path}'])
  assert client.read_credentials('', '') == fleet.Credentials()


def test_a_taken_port_is_told():
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(BadOptions, match='taken'):
      Serving(access=server.Access(port=port))
    with pytest.raises(SystemExit, match='taken'):
      serve.main(['--world=toy', f'--port={port}'])
  with pytest.raises(SystemExit, match='max_requests is 0'):
    serve.main(['--world=toy', '--max_requests=0'])


def test_servers_listen_on_ipv6_too():
  if not socket.has_ipv6:
    pytest.skip('there is no IPv6 here')
  try:
    socket.create_server(('::1', 0), family=socket.AF_INET6).close()
  except OSError:
    pytest.skip('there is no IPv6 here')
  running = server.start(GuessEnv, who(), server.Access('::1'))
  with connect(f'[::1]:{running.port}') as step_envs:
    assert step_envs({0: Task('train', 0)})[0].observation == 'Say red.'
  running.stop()


def test_tls_encrypts_and_strangers_are_not_trusted(tmp_path):
  key, certificate = tmp_path / 'key', tmp_path / 'certificate'
  try:
    subprocess.run(
      ['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days=2',
       '-subj=/CN=localhost', '-addext=subjectAltName=IP:127.0.0.1',
       '-keyout', key, '-out', certificate],
      check=True, capture_output=True,
    )  # fmt: skip
  except FileNotFoundError:
    pytest.skip('openssl makes the certificate, and is not installed')
  access = server.Access(
    key=key.read_bytes(), certificate=certificate.read_bytes()
  )
  running = server.start(GuessEnv, who(), access)
  address = f'127.0.0.1:{running.port}'
  trusting = fleet.Credentials(authority=certificate.read_bytes())
  try:
    with connect(address, credentials=trusting) as step_envs:
      assert step_envs({0: Task('train', 0)})[0].observation == 'Say red.'
    with pytest.raises(fleet.ServersLost, match='UNAVAILABLE'):
      connect(address, patience=1)  # without TLS
  finally:
    running.stop()


def test_a_world_without_any_task_is_not_served(monkeypatch):
  def no_tasks(split):
    raise UnknownTask('no games here')

  made = registry.make_world('toy', {'num_words': 4})
  monkeypatch.setattr(made, 'num_tasks', no_tasks)
  with pytest.raises(UnknownTask, match='no games here'):
    identity.data_hash(made)
