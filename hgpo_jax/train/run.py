"""What one experiment is made of: the policy's faces and its seat."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Iterable
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
from hgpo_jax.train import batching, evaluate, tasks, update, warmstart

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
    step_envs: the environments.
  """

  world: Any
  make_task: Callable[[str, int], Any]
  agent: collect.AgentLayer
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
    """Plays the evaluation games: split -> temperature -> result."""
    c, seat = self.config.eval, self.seat
    results: dict[str, dict[str, Any]] = {}
    for split in c.splits:
      numbers = tasks.eval_tasks(c.games, seat.world.num_tasks(split))
      games = [seat.make_task(split, n) for n in numbers]
      for temperature in c.temperatures:
        trajectories = self.player.play(
          params, games, key_of(c.seed, EVALUATION), Sampling(temperature)
        )
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
  if policy.preset not in qwen2.CONFIGS:
    raise ValueError(
      f'policy.preset is {policy.preset!r}; expected one of '
      f'{sorted(qwen2.CONFIGS)}.'
    )
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


def warm_start(
  config: ml_collections.ConfigDict, seat: Seat, folder: pathlib.Path
) -> tuple[Run, Any]:
  """Builds the run, and the params that RL starts from (the KL's reference).

  The tokenizer and the cloned params are cached beside the run, under a name
  that stands for every setting they depend on.

  Args:
    config: the experiment.
    seat: its world.
    folder: the run's; the tokenizer is written there too.
  """
  cache = warmstart.cache_folder(folder.parent / 'cache', _settings(config))
  words = cache / 'tokenizer'
  if words.exists():
    run = Run(config, seat, tokenizer_lib.load(words))
    params = warmstart.load(cache / 'params', run.init_params())
    if params is not None:
      print(f'warm start: from {cache}')
      _copy(words, folder / 'tokenizer')
      return run, params
    shutil.rmtree(cache)  # cut off while it was written
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
  tokenizer_lib.save(tokenizer, words)
  warmstart.save(cache / 'params', params)
  _copy(words, folder / 'tokenizer')
  return run, params


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


def _settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """What a warm start depends on, as JSON."""
  settings = {
    name: config[name].to_dict()
    for name in ('env', 'policy', 'warmstart', 'sampling')
  }
  del settings['env']['servers']
  return {'seed': config.seed, **settings}


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
  shutil.copytree(source, target, dirs_exist_ok=True)
