"""Times one whole iteration of the paper's ALFWorld cell, part by part.

  python -m experiments.make_games --output=games
  python -m experiments.bench.iteration --games=games --json

A policy of random weights is written as a Hugging Face folder and loaded from
there. Random replies go on to `--reply` tokens, so the rollout is a worst case.
Parts are timed in the last of `--iterations`, when everything is compiled;
scoring is one pass, of which an update holds two.
"""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
from absl import app, flags, logging

from experiments.bench import harness
from experiments.configs import alfworld_qwen
from hgpo_jax.model import registry, weights
from hgpo_jax.model import tokenizer as tokenizer_lib
from hgpo_jax.train import build as model_lib
from hgpo_jax.train import loop, warm_start
from hgpo_jax.train import policy as policy_lib
from hgpo_jax.train import run as run_lib
from hgpo_jax.train.compilations import Compilations

_PRESET = flags.DEFINE_enum('preset', '1.5b', list(registry.presets()), 'Size.')
_GAMES = flags.DEFINE_string(
  'games', '', 'Folder of games; default: generated ones.'
)
_GROUPS = flags.DEFINE_integer('groups', 16, 'Tasks, 8 episodes each.')
_TURNS = flags.DEFINE_integer('turns', 5, 'Of every episode.')
_REPLY = flags.DEFINE_integer('reply', 512, 'Tokens.')
_ITERATIONS = flags.DEFINE_integer('iterations', 2, 'The last is timed.')
_JSON = flags.DEFINE_bool('json', False, 'One JSON object as the last line.')


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Got {argv[1:]}, expected flags only.')
  logging.set_verbosity(logging.WARNING)
  with tempfile.TemporaryDirectory() as folder:
    harness.report(_measure(pathlib.Path(folder)), _JSON.value)


def _config() -> ml_collections.ConfigDict:
  c = alfworld_qwen.get_config()
  c.unlock()
  c.env.alfworld.update(
    data='files' if _GAMES.value else 'generated',
    root=_GAMES.value,
    max_turns=_TURNS.value,
  )
  c.env.servers, c.rollout.workers = 0, 0
  c.sampling.max_reply = _REPLY.value
  c.rollout.groups = _GROUPS.value
  c.rollout.rows = 8 * _GROUPS.value
  c.policy.update(preset=_PRESET.value, checkpoint='')
  c.warmstart.tokenizer_games = 16
  return c


def _measure(folder: pathlib.Path) -> dict[str, Any]:
  c = _config()
  seconds: dict[str, float] = {}
  with (
    Compilations() as compilations,
    model_lib.on_mesh(c),
    loop.open_environments(c) as environments,
  ):
    c.policy.checkpoint = _written(c, environments, folder / 'policy')
    run, reference = warm_start.warm_start(c, environments, folder / 'run')
    learner = run.make_learner()
    state = run.policy.init_state(reference, learner.optimizer)
    for step in range(_ITERATIONS.value):
      with _timed(seconds, 'rollout'):
        played = run.rollout(policy_lib.policy_of(state), step)
      turns = [turn for t in played for turn in t.turns]
      with _timed(seconds, 'advantages'):
        learner.advantages(played, (0, step))
      with _timed(seconds, 'scoring'):
        learner.log_probs(reference, turns)
      with _timed(seconds, 'update'):
        state, scalars = learner.update(state, reference, played, (0, step))
        jax.block_until_ready(state)
  return {
    'preset': _PRESET.value,
    'device': jax.devices()[0].device_kind,
    'episodes': len(played),
    'turns': len(turns),
    'prompt_tokens': sum(t.prompt.size for t in turns),
    'reply_tokens': sum(t.reply.size for t in turns),
    **{f'{name}_seconds': value for name, value in seconds.items()},
    'sampler_kl': scalars['sampler_kl'],
    'real_tokens': scalars['real_tokens'],
    'compilations': compilations.count,
    'compile_seconds': compilations.seconds,
    'peak_memory_bytes': harness.peak_memory_bytes(),
  }


def _written(
  c: ml_collections.ConfigDict,
  environments: run_lib.Environments,
  folder: pathlib.Path,
) -> str:
  """Writes a policy of random weights and a tokenizer for it."""
  tokenizer = warm_start.make_tokenizer(
    c, warm_start.expert_examples(c, environments)
  )
  policy = policy_lib.Policy(c, tokenizer)
  weights.save(folder, policy.base, policy.init_params())
  tokenizer_lib.save(tokenizer, folder)
  return str(folder)


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
  start = time.perf_counter()
  yield
  seconds[name] = time.perf_counter() - start


if __name__ == '__main__':
  app.run(main)
