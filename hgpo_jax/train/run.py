"""What one experiment is made of: the policy's faces and its seat."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tqdm

from hgpo_jax import types
from hgpo_jax.policy import generate, qwen2, scoring
from hgpo_jax.policy import tokenizer as tokenizer_lib
from hgpo_jax.policy.sampling import Sampling
from hgpo_jax.rollout import collect
from hgpo_jax.rollout.codec import Codec
from hgpo_jax.rollout.player import Player
from hgpo_jax.train import (
  batching,
  checkpoint,
  evaluate,
  learner,
  tasks,
  update,
  warmstart,
)

# What keys are for; every purpose has a number of its own.
INIT, ROLLOUT, EVALUATION, ORDER = range(4)


def key_of(seed: int, purpose: int, step: int = 0) -> jax.Array:
  """Returns the key of one purpose at one step; no two share one."""
  key = jax.random.fold_in(jax.random.key(seed), purpose)
  return jax.random.fold_in(key, step)


@dataclasses.dataclass(frozen=True)
class Seat:
  """A world as the trainer sees it: callables and words, no environment.

  Attributes:
    world: tasks, their kinds, demonstrations (see envs/world.py).
    make_task: (split, index) -> task.
    agent: the words.
    words: the template as JSON, by which a warm start is told apart.
    step_envs: the environments.
  """

  world: Any
  make_task: Callable[[str, int], Any]
  agent: collect.AgentLayer
  words: Mapping[str, Any]
  step_envs: collect.StepEnvs


class Run:
  """One experiment's parts, built from its config and a tokenizer."""

  def __init__(
    self, config: ml_collections.ConfigDict, seat: Seat, tokenizer: Any
  ):
    self.config, self.seat, self.tokenizer = config, seat, tokenizer
    c = config
    self.codec = Codec(tokenizer, c.sampling.max_reply)
    self.model = model_config(c.policy, len(tokenizer))
    self.shapes = batching.Shapes(
      prompt=tuple(c.sampling.prompt_buckets),
      reply=c.sampling.max_reply,
      choices=tuple(c.sampling.choice_buckets),
      micro=c.optim.microbatch,
    )
    self.sampling = Sampling(
      temperature=c.sampling.temperature,
      top_k=c.sampling.top_k or None,
      top_p=c.sampling.top_p if c.sampling.top_p < 1 else None,
    )
    self.player = Player(
      seat.step_envs,
      seat.agent,
      self.codec,
      self._make_generator,
      rows=c.rollout.rows,
    )

  def _make_generator(self, sampling: Sampling) -> generate.Generator:
    return generate.make_generator(
      self.model,
      sampling=sampling,
      max_reply=self.shapes.reply,
      prompt_buckets=self.shapes.prompt,
      batch_buckets=tuple(self.config.sampling.batch_buckets),
      choice_buckets=self.shapes.choices,
      end_id=tokenizer_lib.end_id(self.tokenizer),
      pad_id=tokenizer_lib.pad_id(self.tokenizer),
    )

  def init_params(self) -> Any:
    """Draws params at random; see `policy.compose_embeddings`."""
    key = key_of(self.config.seed, INIT)
    params = jax.jit(qwen2.init_params, static_argnums=0)(self.model, key)
    policy = self.config.policy
    params['embed'] *= policy.embed_std / qwen2.INIT_STD
    if policy.compose_embeddings:
      parts = tokenizer_lib.token_parts(self.tokenizer)
      params['embed'] = composed(params['embed'], parts)
    return params

  def score(self, temperature: float) -> update.ScoreFn:
    """Returns (params, tokens, valid, choices) -> log-probs and entropy."""

    def fn(
      params: Any, tokens: jax.Array, valid: jax.Array, choices: jax.Array
    ) -> scoring.Scores:
      return scoring.score(
        self.model,
        params,
        tokens,
        valid,
        prompt_len=tokens.shape[1] - self.shapes.reply,
        temperature=temperature,
        choices=choices if choices.shape[1] else None,
      )

    return fn

  def rollout(self, params: Any, step: int) -> list[types.Trajectory]:
    """Plays one iteration's tasks, each by a group of episodes."""
    c, seat = self.config, self.seat
    numbers = tasks.train_tasks(
      c.seed, step, c.rollout.groups, seat.world.num_tasks('train')
    )
    group = [
      seat.make_task('train', n)
      for n in numbers
      for _ in range(c.rollout.group_size)
    ]
    key = key_of(c.seed, ROLLOUT, step)
    return self.player.play(params, group, key, self.sampling)

  def evaluate(self, params: Any) -> dict[str, dict[str, Any]]:
    """Plays the evaluation games: split -> temperature -> result.

    Games and keys depend on `eval` alone, so that results are paired.
    """
    c, seat = self.config.eval, self.seat
    place = 0
    results: dict[str, dict[str, Any]] = {}
    for split in c.splits:
      numbers = tasks.eval_tasks(c.games, seat.world.num_tasks(split))
      games = [seat.make_task(split, n) for n in numbers]
      for temperature in c.temperatures:
        trajectories = self.player.play(
          params,
          games,
          key_of(c.seed, EVALUATION, place),
          Sampling(temperature),
        )
        place += 1
        results.setdefault(split, {})[str(temperature)] = evaluate.summarise(
          trajectories, seat.world.kind
        )
    return results


def composed(embed: jax.Array, parts: dict[int, list[int]]) -> jax.Array:
  """Starts the embedding of a phrase as the sum of its words'.

  `fridge 1` and `fridge` are then alike from the start, so that a policy can
  learn to look for what a task names, whatever that is, instead of learning it
  for each thing.

  Args:
    embed: `[V, D]`, independent rows of equal variance.
    parts: token -> the tokens of its words.

  Returns: `[V, D]` with rows of the same variance.
  """
  rows = np.array(embed)
  for token, words in parts.items():
    rows[token] = np.sum(np.asarray(embed)[words], axis=0) / len(words) ** 0.5
  return jnp.asarray(rows)


def model_config(policy: Any, vocab_size: int) -> qwen2.Config:
  """Returns the preset's size with the config's changes.

  Args:
    policy: the experiment's `policy` fields.
    vocab_size: of the tokenizer; a released size keeps its padded vocabulary.
  """
  preset = qwen2.CONFIGS[policy.preset]
  released = preset.vocab_size if policy.preset != 'tiny' else 0
  return dataclasses.replace(
    preset,
    vocab_size=max(vocab_size, released),
    width=policy.width or preset.width,
    ff_width=policy.ff_width or preset.ff_width,
    num_layers=policy.layers or preset.num_layers,
    dtype=policy.dtype,
  )


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses a config that cannot work, before anything is made.

  Raises: ConfigError with the field, what it holds and what it may hold.
  """
  learner.check(config)
  learner.one_of('policy.preset', config.policy.preset, qwen2.CONFIGS)
  learner.one_of(
    'policy.chat', config.policy.chat, tokenizer_lib.CHAT_TEMPLATES
  )
  for field in ('rollout.groups', 'rollout.group_size', 'optim.minibatch'):
    section, name = field.split('.')
    if config[section][name] < 1:
      raise types.ConfigError(
        f'{field} is {config[section][name]}; expected at least 1.'
      )


def warm_start(
  config: ml_collections.ConfigDict, seat: Seat, folder: pathlib.Path
) -> tuple[Run, Any]:
  """Builds the run, and the params that RL starts from (the KL's reference).

  They stand in `folder/warm_start`, the run's own, and are made once for all
  runs with equal settings, in `cache` beside the run.

  Args:
    config: the experiment.
    seat: its world.
    folder: the run's.

  Raises: CheckpointError if `folder` holds the warm start of other settings.
  """
  own = folder / 'warm_start'
  cache = warmstart.cache_folder(
    folder.parent / 'cache', _settings(config, seat)
  )
  if not own.exists():
    if cache.exists():
      print(f'warm start: from {cache}')
    else:
      with _made_at_once(cache) as scratch:
        _make_warm_start(config, seat, scratch)
        (scratch / 'key').write_text(cache.name)
    with _made_at_once(own) as scratch:
      shutil.copytree(cache, scratch, dirs_exist_ok=True)
  if (own / 'key').read_text() != cache.name:
    raise checkpoint.CheckpointError(
      f'{own} was made with other settings of env, policy, warmstart or the '
      'template. Give them their old values, or another run_dir.'
    )
  run = Run(config, seat, tokenizer_lib.load(own / 'tokenizer'))
  with checkpoint.opened(own / 'params') as store:
    return run, store.restore(run.init_params())


def _make_warm_start(
  config: ml_collections.ConfigDict, seat: Seat, folder: pathlib.Path
) -> None:
  """Writes `tokenizer/` and `params/` from the expert's episodes."""
  found = list(_examples(config, seat))
  tokenizer = (
    tokenizer_lib.load(config.policy.tokenizer)
    if config.policy.tokenizer
    else tokenizer_lib.build(
      (text for example in found for text in warmstart.texts(example)),
      vocab_size=config.policy.vocab_size,
      chat_template=tokenizer_lib.CHAT_TEMPLATES[config.policy.chat],
    )
  )
  run = Run(config, seat, tokenizer)
  params = run.init_params()
  if config.warmstart.games:
    params = _clone(run, params, found[: config.warmstart.games])
  tokenizer_lib.save(tokenizer, folder / 'tokenizer')
  warmstart.save(folder / 'params', params)


@contextlib.contextmanager
def _made_at_once(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Gives a scratch folder that becomes `folder` when all went well.

  Another process may have made the same meanwhile; then ours is dropped.
  """
  scratch = folder.with_name(f'{folder.name}.{os.getpid()}.part')
  scratch.mkdir(parents=True)
  try:
    yield scratch
    with contextlib.suppress(OSError):
      scratch.rename(folder)
  finally:
    shutil.rmtree(scratch, ignore_errors=True)


def _examples(
  config: ml_collections.ConfigDict, seat: Seat
) -> Iterable[list[warmstart.Example]]:
  """Yields the expert's episodes, in words."""
  c = config.warmstart
  games = max(c.games, 0 if config.policy.tokenizer else c.tokenizer_games)
  numbers = tasks.demonstration_tasks(
    config.seed, games, seat.world.num_tasks('train')
  )
  for place, number in enumerate(tqdm.tqdm(numbers, desc='expert episodes')):
    episode = seat.world.demonstrate(
      seat.make_task('train', number),
      seed=place,
      explore=c.explore,
      noise=c.noise,
    )
    if episode:
      yield warmstart.examples(episode, seat.agent)


def _clone(run: Run, params: Any, found: list[list[warmstart.Example]]) -> Any:
  c = run.config
  turns = warmstart.to_turns(
    [x for e in found for x in e], run.codec, run.shapes.reply
  )
  if not turns:
    raise types.ConfigError(
      f'nothing to clone: {c.warmstart.games} games gave {len(found)} episodes '
      "that the expert won, and no reply of theirs fits. Raise the world's "
      'max_turns or sampling.max_reply.'
    )
  bar = tqdm.tqdm(desc=f'cloning {len(turns)} turns', unit='update')

  def report(step: int, steps: int, loss: jax.Array) -> None:
    bar.total = steps
    if step % 20 == 0 or step == steps:
      bar.set_postfix_str(f'loss {float(loss):.3f}', refresh=False)
    bar.update()

  params = warmstart.clone(
    params,
    turns,
    run.score(1.0),
    shapes=run.shapes,
    epochs=c.warmstart.epochs,
    minibatch=c.warmstart.minibatch,
    learning_rate=c.warmstart.learning_rate,
    seed=c.seed,
    report=report,
  )
  bar.close()
  return params


def _settings(config: ml_collections.ConfigDict, seat: Seat) -> dict[str, Any]:
  """What a warm start depends on, as JSON."""
  c = config
  settings = {n: c[n].to_dict() for n in ('env', 'policy', 'warmstart')}
  for field in ('servers', 'template', 'template_file'):
    del settings['env'][field]
  shapes = ('max_reply', 'prompt_buckets', 'choice_buckets')
  return {
    **settings,
    'seed': c.seed,
    'words': seat.words,
    'sampling': {name: c.sampling[name] for name in shapes},
    'microbatch': c.optim.microbatch,
    'tokenizer': _digest(c.policy.tokenizer),
  }


def _digest(folder: str) -> str:
  """A fingerprint of a tokenizer's folder; '' where none is given."""
  if not folder:
    return ''
  file = pathlib.Path(folder) / 'tokenizer.json'
  return hashlib.sha256(file.read_bytes()).hexdigest()
