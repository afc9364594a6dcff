"""The warm start: tokenizer and params that RL starts from, made once."""

from __future__ import annotations

import contextlib
import pathlib
import secrets
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import tqdm
from transformers import PreTrainedTokenizerFast

from hgpo_jax import config as config_lib
from hgpo_jax import types
from hgpo_jax.config import Config
from hgpo_jax.model import tokenizer as tokenizer_lib
from hgpo_jax.multihost import hosts
from hgpo_jax.rollout.codec import Codec
from hgpo_jax.rollout.environments import Environments
from hgpo_jax.train import build, checkpoint, cloning, tasks
from hgpo_jax.train import policy as policy_lib


def warm_start(
  config: Config,
  environments: Environments,
  folder: pathlib.Path,
) -> tuple[policy_lib.Policy, types.Params]:
  """Makes what RL starts from: the policy and its base params.

  The params are the KL's reference, too. Tokenizer and params are made once
  for all runs with equal settings, in `cache` beside the run, and copied to the
  run's own `folder/warm_start`. A Hugging Face checkpoint that is not cloned
  further is read where it is.

  Args:
    config: the experiment.
    environments: its world.
    folder: the run's.

  Raises: CheckpointError if `folder` holds the warm start of other settings.
  """
  own = folder / 'warm_start'
  cache = cloning.cache_folder(
    folder.parent / 'cache', _settings(config, environments)
  )
  # A resumed run may be packed otherwise, and its games may have moved.
  key = cloning.cache_folder(
    folder, _settings(config, environments, identity=True)
  ).name
  # Only the first process looks: a network file system would remember for the
  # others that nothing is there, after it was made.
  has_own, cached = (
    hosts.broadcast_from_first(hosts.is_first() and path.exists())
    for path in (own, cache)
  )
  if not has_own:
    if cached:
      hosts.say(f'warm start: from {cache}')
    else:
      with _atomic_folder(cache) as scratch:
        _make_warm_start(config, environments, scratch)
        if hosts.is_first():
          (scratch / 'key').write_text(key)
    with _atomic_folder(own) as scratch:
      if hosts.is_first():
        shutil.copytree(cache, scratch, dirs_exist_ok=True)
  if (own / 'key').read_text() != key:
    raise checkpoint.CheckpointError(
      f'{own} was made with other settings of env, policy, warmstart or the '
      'template. Give them their old values, or another run_dir.'
    )
  with _named_errors(own, cache):
    tokenizer = tokenizer_lib.load(own / 'tokenizer')
  policy = policy_lib.Policy(config, tokenizer)
  if has_own or cached:  # else `_make_warm_start` said it
    hosts.say(policy.memory())
  with _named_errors(own, cache):
    params = policy.warm_params(own)
  return policy, params


@contextlib.contextmanager
def _named_errors(own: pathlib.Path, cache: pathlib.Path) -> Iterator[None]:
  """Adds to an error of reading where the file came from."""
  try:
    yield
  except (OSError, ValueError, checkpoint.CheckpointError) as error:
    raise checkpoint.CheckpointError(
      f'the warm start in {own} cannot be read: {error}\nIt was copied from '
      f'{cache}: delete both, and begin anew without --resume.'
    ) from error


def _make_warm_start(
  config: Config,
  environments: Environments,
  folder: pathlib.Path,
) -> None:
  """Writes `tokenizer/` and `params/` from the expert's episodes."""
  examples = list(expert_examples(config, environments))
  tokenizer = make_tokenizer(config, examples)
  if hosts.is_first():
    tokenizer_lib.save(tokenizer, folder / 'tokenizer')
  policy = policy_lib.Policy(config, tokenizer)
  hosts.say(policy.memory())  # refuses what will not fit, before it is made
  if config.policy.checkpoint and not config.warmstart.games:
    return
  params = policy.init_params()
  if config.warmstart.games:
    params = _clone(policy, params, examples[: config.warmstart.games])
  cloning.save(folder / 'params', params)


def make_tokenizer(
  config: Config, examples: Iterable[list[cloning.Example]]
) -> PreTrainedTokenizerFast:
  """Loads the tokenizer that the config names, or builds one from examples."""
  if folder := build.tokenizer_folder(config.policy):
    return tokenizer_lib.load(folder)
  return tokenizer_lib.build(
    (text for episode in examples for text in cloning.texts(episode)),
    vocab_size=config.policy.vocab_size,
    chat_template=tokenizer_lib.CHAT_TEMPLATES[config.policy.chat],
  )


@contextlib.contextmanager
def _atomic_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a scratch folder that is renamed to `folder` if nothing failed.

  Where another run has made `folder` meanwhile, the scratch is deleted.
  """
  # No process id: in containers other runs have the same.
  number = hosts.broadcast_from_first(secrets.randbits(30))
  name = f'{folder.name}.{number:08x}.part'
  scratch = folder.with_name(name)
  scratch.mkdir(parents=True, exist_ok=True)
  try:
    yield scratch
    hosts.wait(f'{name} is written')
    if hosts.is_first():
      with contextlib.suppress(OSError):
        scratch.rename(folder)
    hosts.wait(f'{name} is moved')
  finally:
    if hosts.is_first():
      shutil.rmtree(scratch, ignore_errors=True)


def expert_examples(
  config: Config, environments: Environments
) -> Iterable[list[cloning.Example]]:
  """Yields the examples of each episode that the expert won."""
  c = config.warmstart
  built = not build.tokenizer_folder(config.policy)
  games = max(c.games, c.tokenizer_games if built else 0)
  numbers = tasks.demonstration_tasks(
    config.seed, games, environments.world.num_tasks('train')
  )
  for place, number in enumerate(
    tqdm.tqdm(numbers, 'expert episodes', disable=not hosts.is_first())
  ):
    episode = environments.world.demonstrate(
      environments.make_task('train', number),
      seed=place,
      explore=c.explore,
      noise=c.noise,
    )
    if episode:
      yield cloning.examples(episode, environments.agent)


def _clone(
  policy: policy_lib.Policy,
  params: types.Params,
  examples: list[list[cloning.Example]],
) -> types.Params:
  c = policy.config
  turns = cloning.to_turns(
    [example for episode in examples for example in episode],
    Codec(policy.tokenizer, c.sampling.max_reply),
    c.sampling.max_reply,
  )
  if not turns:
    raise types.ConfigError(
      f'nothing to clone: {c.warmstart.games} games gave {len(examples)} '
      'episodes that the expert won, and no reply of theirs fits. Raise the '
      "world's max_turns or sampling.max_reply."
    )
  bar = tqdm.tqdm(
    desc=f'cloning {len(turns)} turns',
    unit='update',
    disable=not hosts.is_first(),
  )

  def report(step: int, steps: int, loss: jax.Array) -> None:
    bar.total = steps
    if step % 20 == 0 or step == steps:
      bar.set_postfix_str(f'loss {float(loss):.3f}', refresh=False)
    bar.update()

  params = cloning.clone(
    params,
    turns,
    policy.score(1.0, policy.base),
    shapes=policy.shapes,
    epochs=c.warmstart.epochs,
    minibatch=c.warmstart.minibatch_turns,
    learning_rate=c.warmstart.learning_rate,
    seed=c.seed,
    report=report,
    placed=policy.placed,
  )
  bar.close()
  return params


def _settings(
  config: Config, environments: Environments, *, identity: bool = False
) -> dict[str, Any]:
  """What a warm start depends on, as JSON; see `warm_start_fields`."""
  return {
    **config_lib.warm_start_fields(config, identity=identity),
    'words': environments.words,
    **build.fingerprints(config.policy),
  }
