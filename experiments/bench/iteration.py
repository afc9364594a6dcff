"""Times one whole iteration of the paper's ALFWorld cell, part by part.

  python -m experiments.make_games --output=games
  python -m experiments.bench.iteration --games=games --json

A policy of random weights is written as a Hugging Face folder and loaded from
there. Random replies go on to `--reply` tokens, so the rollout is a worst case.
Parts are timed in the last of `--iterations`, when everything is compiled;
scoring is one pass, of which an update holds two.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from typing import Any

import jax
from absl import flags, logging

from experiments.bench import harness
from experiments.configs import alfworld_qwen, base
from hgpo_jax.config import Config
from hgpo_jax.model import registry, weights
from hgpo_jax.model import tokenizer as tokenizer_lib
from hgpo_jax.rollout.environments import Environments
from hgpo_jax.train import build, warm_start, worlds
from hgpo_jax.train import learner as learner_lib
from hgpo_jax.train import policy as policy_lib
from hgpo_jax.train.actor import Actor
from hgpo_jax.train.compilations import Compilations

_PRESET = flags.DEFINE_enum('preset', '1.5b', list(registry.presets()), 'Size.')
_GAMES = flags.DEFINE_string(
  'games', '', 'Folder of games; default: generated ones.'
)
_GROUPS = flags.DEFINE_integer('groups', 16, 'Tasks, 8 episodes each.')
_TURNS = flags.DEFINE_integer('turns', 5, 'Of every episode.')
_REPLY = flags.DEFINE_integer('reply', 512, 'Tokens.')
_ITERATIONS = flags.DEFINE_integer('iterations', 2, 'The last is timed.')


def measure() -> dict[str, Any]:
  """Times the parts of an iteration."""
  logging.set_verbosity(logging.WARNING)
  with tempfile.TemporaryDirectory() as folder:
    return _measure(pathlib.Path(folder))


def _config() -> Config:
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
  c.rollout.episodes = 8 * _GROUPS.value
  c.policy.update(preset=_PRESET.value, checkpoint='')
  c.warmstart.tokenizer_games = 16
  return base.freeze(c)


def _measure(folder: pathlib.Path) -> dict[str, Any]:
  c = _config()
  watch = harness.Stopwatch()
  with (
    Compilations() as compilations,
    build.on_mesh(c),
    worlds.open_environments(c) as environments,
  ):
    written = _written(c, environments, folder / 'policy')
    c = dataclasses.replace(
      c, policy=dataclasses.replace(c.policy, checkpoint=written)
    )
    policy, reference = warm_start.warm_start(c, environments, folder / 'run')
    actor = Actor(environments, policy)
    learner = learner_lib.make_learner(policy, actor.sampling)
    state = policy.init_state(reference, learner.optimizer)

    def update(state: Any, played: Any, step: int) -> Any:
      return jax.block_until_ready(
        learner.update(state, reference, played, (0, step))
      )

    for step in range(_ITERATIONS.value):
      played = watch(
        'rollout', actor.rollout, policy_lib.policy_of(state), step
      )
      turns = [turn for t in played for turn in t.turns]
      watch('advantages', learner.advantages, played, (0, step))
      watch('scoring', learner.log_probs, reference, turns)
      state, scalars = watch('update', update, state, played, step)
  return {
    'preset': _PRESET.value,
    'device': jax.devices()[0].device_kind,
    'episodes': len(played),
    'turns': len(turns),
    'prompt_tokens': sum(t.prompt.size for t in turns),
    'reply_tokens': sum(t.reply.size for t in turns),
    **{f'{name}_seconds': x[-1] for name, x in watch.seconds.items()},
    'sampler_kl': scalars['sampler_kl'],
    'real_tokens': scalars['real_tokens'],
    'compilations': compilations.count,
    'compile_seconds': compilations.seconds,
    'peak_memory_bytes': harness.peak_memory_bytes(),
  }


def _written(
  c: Config,
  environments: Environments,
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


if __name__ == '__main__':
  harness.main(measure)
