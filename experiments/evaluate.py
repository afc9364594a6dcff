"""Plays every game of a split with a trained policy and prints the table.

`python -m experiments.evaluate --checkpoint=runs/alfworld_tiny
--split=valid_seen` plays the released games under $ALFWORLD_DATA, each once.
Worlds other than ALFWorld are played as the run's config has them, such as
WebShop's goals with `--split=test`.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags, logging

from envs.base import EnvError
from experiments import command
from experiments.configs import base
from hgpo_jax.config import Config, Env
from hgpo_jax.model import tokenizer as tokenizer_lib
from hgpo_jax.model.weights import WeightsError
from hgpo_jax.random_streams import Key
from hgpo_jax.sampler.sampling import Sampling
from hgpo_jax.train import build, checkpoint, evaluate, metrics, tasks, worlds
from hgpo_jax.train import policy as policy_lib
from hgpo_jax.train.actor import Actor
from hgpo_jax.types import ConfigError

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, 'Folder of a training run.', required=True
)
_STEP = flags.DEFINE_integer('step', None, 'Iteration; default: the newest.')
_SPLIT = flags.DEFINE_string('split', 'valid_seen', 'Split to play.')
_DATA = flags.DEFINE_enum(
  'data',
  None,
  ['files', 'generated'],
  "ALFWorld's released or generated games; default: files.",
)
_ROOT = flags.DEFINE_string(
  'root', None, 'Folder that holds json_2.1.1/; default: $ALFWORLD_DATA.'
)
_GAMES = flags.DEFINE_integer(
  'games', 0, 'How many; 0 plays the whole split.', lower_bound=0
)
_MAX_TURNS = flags.DEFINE_integer(
  'max_turns',
  None,
  "Step limit; default: 50 for ALFWorld's files, else the run's own.",
  lower_bound=1,
)
_TEMPERATURE = flags.DEFINE_float(
  'temperature', 0.4, 'Of sampling.', lower_bound=0
)
_SEED = flags.DEFINE_integer('seed', 123, 'Of sampling.')
_TEMPLATE = flags.DEFINE_string(
  'template_file', '', "JSON template; default: the run's own words."
)
_MAX_PROMPT = flags.DEFINE_integer(
  'max_prompt', 256, 'Tokens; other games may need longer prompts than trained.'
)
_MAX_REPLY = flags.DEFINE_integer(
  'max_reply', 24, 'Tokens; names that the tokenizer never met are spelled.'
)
_ENGINE = flags.DEFINE_enum(
  'engine', None, ['fast', 'textworld'], 'Which plays ALFWorld; default: fast.'
)


def main() -> None:
  """Plays, and writes the result beside the checkpoints."""
  logging.set_verbosity(logging.WARNING)
  folder = pathlib.Path(_CHECKPOINT.value)
  with checkpoint.opened(folder / 'checkpoints') as store:
    step = _STEP.value if _STEP.value is not None else store.latest()
    config = base.freeze(store.meta(step)['config'])
    config = build.fit_mesh(_changed(config, folder))
    tokenizer = tokenizer_lib.load(folder / 'warm_start' / 'tokenizer')
    with (
      worlds.open_environments(config) as environments,
      build.on_mesh(config),
    ):
      policy = policy_lib.Policy(config, tokenizer)
      actor = Actor(environments, policy)
      params = policy.for_sampling(policy.saved_params(folder, store, step))
      size = environments.world.num_tasks(_SPLIT.value)
      if size is None and not _GAMES.value:
        raise ConfigError('this split has no end: say how many with --games.')
      numbers = tasks.eval_tasks(_GAMES.value, size, _SPLIT.value)
      played = actor.play(
        params,
        [environments.make_task(_SPLIT.value, n) for n in numbers],
        Sampling(_TEMPERATURE.value),
        (_SEED.value, Key.EVALUATION),
      )
      result = {
        'step': step,
        'split': _SPLIT.value,
        **_played_with(config),
        'temperature': _TEMPERATURE.value,
        'seed': _SEED.value,
        'dropped_choices': actor.codec.dropped,
        **evaluate.summarise(played, environments.world.kind),
      }
  path = folder / f'{_name(result)}.json'
  metrics.write_json(path, result)
  print(f'{path} written')
  print(evaluate.table(result))


def _name(result: Mapping[str, Any]) -> str:
  """A name for each kind of evaluation, so that none overwrites another."""
  keys = ('split', 'data', 'temperature', 'seed', 'step')
  parts = [str(result[key]) for key in keys if key in result]
  template = _TEMPLATE.value and pathlib.Path(_TEMPLATE.value).stem
  changes = {
    'games': _GAMES.value,
    'turns': _MAX_TURNS.value,
    'engine': _ENGINE.value,
    'template': template,
  }
  parts += [f'{name}-{value}' for name, value in changes.items() if value]
  return '_'.join(['evaluation', *parts])


def _changed(config: Config, folder: pathlib.Path) -> Config:
  """Puts the flags into the config that the policy was trained with."""
  sampling = config.sampling
  prompts = list(sampling.prompt_buckets)
  while max(prompts) < _MAX_PROMPT.value:
    prompts.append(min(2 * max(prompts), _MAX_PROMPT.value))
  widest = max(sampling.choice_buckets)
  return dataclasses.replace(
    config,
    sampling=dataclasses.replace(
      sampling,
      prompt_buckets=tuple(prompts),
      max_reply=max(sampling.max_reply, _MAX_REPLY.value),
      choice_buckets=(*sampling.choice_buckets, 2 * widest, 4 * widest),
    ),
    env=dataclasses.replace(
      config.env,
      addresses=(),  # servers play the options of the training
      template_file=_TEMPLATE.value or str(folder / 'template.json'),
      options={**config.env.options, config.env.world: _options(config.env)},
    ),
  )


def _options(env: Env) -> Any:
  """The world's options with the flags that are its own.

  Raises: ConfigError for flags that are not this world's.
  """
  options = env.options[env.world]
  if env.world == 'alfworld':
    data = _DATA.value or 'files'
    turns = 50 if data == 'files' else options.max_turns
    return dataclasses.replace(
      options,
      data=data,
      root=_ROOT.value or '',
      engine=_ENGINE.value or 'fast',
      max_turns=_MAX_TURNS.value or turns,
    )
  if _DATA.value or _ROOT.value or _ENGINE.value:
    raise ConfigError(
      f'--data, --root and --engine are for ALFWorld, but this run is of '
      f'{env.world}; leave them out, and it plays with the options of its '
      'training.'
    )
  if not _MAX_TURNS.value:
    return options
  if not hasattr(options, 'max_turns'):
    raise ConfigError(f'--max_turns: {env.world} has no such option.')
  return dataclasses.replace(options, max_turns=_MAX_TURNS.value)


def _played_with(config: Config) -> dict[str, Any]:
  """Where games come from and what plays them, for worlds with a choice."""
  options = config.env.chosen
  keys = ('data', 'engine', 'max_turns')
  choices = {key: options[key] for key in keys if key in options}
  return {**choices, 'template': config.env.template_file}


if __name__ == '__main__':
  command.run(
    main, checkpoint.CheckpointError, ConfigError, EnvError, WeightsError
  )
