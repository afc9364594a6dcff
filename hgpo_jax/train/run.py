"""What one experiment is made of: the policy's faces and its seat."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import tqdm

from hgpo_jax import types
from hgpo_jax.policy import tokenizer as tokenizer_lib
from hgpo_jax.policy.sampling import Sampling
from hgpo_jax.rollout import collect
from hgpo_jax.rollout.codec import Codec
from hgpo_jax.rollout.player import Player
from hgpo_jax.train import (
  checkpoint,
  evaluate,
  exchange,
  hosts,
  learner,
  rewards,
  selection,
  tasks,
  warmstart,
)
from hgpo_jax.train import model as model_lib
from hgpo_jax.train import policy as policy_lib
from hgpo_jax.train.policy import key_of

# What keys are for, beside those of `policy`.
ROLLOUT, EVALUATION, ORDER = range(1, 4)
REFILL = 5
# The smallest value of a field that works.
_LEAST = {
  'env.history': 0,
  'rollout.groups': 1,
  'rollout.max_groups': 0,
  'rollout.group_size': 1,
  'rollout.rows': 1,
  'rollout.slots': 0,
  'rollout.workers': 0,
  'optim.minibatch': 1,
}


@dataclasses.dataclass(frozen=True)
class Seat:
  """A world as the trainer sees it: callables and words, no environment.

  Attributes:
    world: tasks, their kinds, demonstrations (see envs/world.py).
    make_task: (split, index) -> task.
    agent: the words.
    words: the template as JSON, by which a warm start is told apart.
    step_envs: the environments.
    counts: what befell their servers so far, by name.
  """

  world: Any
  make_task: Callable[[str, int], Any]
  agent: collect.AgentLayer
  words: Mapping[str, Any]
  step_envs: collect.StepEnvs
  counts: Callable[[], Mapping[str, float]] = dict


class Run:
  """One experiment: its policy in its seat, playing and learning."""

  def __init__(self, seat: Seat, policy: policy_lib.Policy):
    c = policy.config
    self.config, self.seat, self.policy = c, seat, policy
    self.codec = Codec(policy.tokenizer, c.sampling.max_reply)
    self.rewarded = rewards.REWARDS[c.algo.reward]
    self.sampling = Sampling(
      temperature=c.sampling.temperature,
      top_k=c.sampling.top_k or None,
      top_p=c.sampling.top_p if c.sampling.top_p < 1 else None,
    )
    self.player = Player(
      seat.step_envs,
      seat.agent,
      self.codec,
      policy.model,
      policy.plan,
      collect.Schedule(
        episodes=hosts.portion(c.rollout.rows),
        workers=c.rollout.workers,
        lockstep=c.rollout.lockstep,
      ),
    )

  def make_learner(self) -> learner.Learner:
    """Builds the learner for what `rollout` samples."""
    policy, temperature = self.policy, self.sampling.scored_temperature
    reference = None
    if policy.model != policy.base:
      reference = policy.score(temperature, policy.base)
    return learner.Learner(
      self.config,
      policy.score(temperature),
      policy.shapes,
      reference,
      policy.placed,
      policy.values() if policy.has_critic else None,
    )

  def rollout(self, params: Any, step: int) -> list[types.Trajectory]:
    """Plays one iteration's tasks, each by a group of episodes.

    Up to `rollout.max_groups` of them, until `rollout.groups` can teach.
    """
    c, seat = self.config.rollout, self.seat
    limit = max(c.groups, c.max_groups)
    numbers = tasks.train_tasks(
      self.config.seed, step, limit, seat.world.num_tasks('train')
    )
    params = self.policy.for_sampling(params)
    played: list[types.Trajectory] = []
    done, more = 0, c.groups
    while more:
      episodes = [
        seat.make_task('train', n)
        for n in numbers[done : done + more]
        for _ in range(c.group_size)
      ]
      purpose = (REFILL, step, done) if done else (ROLLOUT, step)
      key = (self.config.seed, *purpose)
      played += self._play(params, episodes, key, self.sampling)
      done += more
      kept = int(self._informative(played).sum())
      more = selection.groups_to_play(kept, done, wanted=c.groups, limit=limit)
    return played

  def _play(
    self,
    params: Any,
    episodes: Sequence[Any],
    key: tuple[int, ...],
    sampling: Sampling,
  ) -> list[types.Trajectory]:
    """Plays one episode per task, each process its share of them.

    Args:
      params: as `Policy.for_sampling` gives them.
      episodes: their tasks.
      key: what `key_of` makes a key of.
      sampling: how replies are drawn.
    """

    def play(own: range) -> list[types.Trajectory]:
      mine = episodes[own.start : own.stop]
      with self.policy.on_own_mesh():
        return self.player.play(
          params, mine, key_of(*key), sampling, first=own.start
        )

    return exchange.exchanged(play, episodes)

  def teaching(
    self, played: Sequence[types.Trajectory]
  ) -> Sequence[types.Trajectory]:
    """Returns the groups of a rollout that are learned from.

    All of them, unless `rollout.max_groups` asks for some that can teach; then
    the first such `rollout.groups`, or just the first ones where none can.
    """
    c = self.config.rollout
    if not c.max_groups:
      return played
    found = np.flatnonzero(self._informative(played))[: c.groups]
    groups = found if found.size else range(c.groups)
    size = c.group_size
    return [t for g in groups for t in played[g * size : (g + 1) * size]]

  def _informative(self, played: Sequence[types.Trajectory]) -> np.ndarray:
    found = [sum(u.reward for u in self.rewarded(t).turns) for t in played]
    groups = np.arange(len(played)) // self.config.rollout.group_size
    return selection.informative(np.array(found), groups)

  def evaluate(self, params: Any) -> dict[str, dict[str, Any]]:
    """Plays the evaluation games: split -> temperature -> result.

    Games and keys depend on `eval` alone, so that results are paired.
    """
    c, seat = self.config.eval, self.seat
    params = self.policy.for_sampling(params)
    place = 0
    results: dict[str, dict[str, Any]] = {}
    for split in c.splits:
      numbers = tasks.eval_tasks(c.games, seat.world.num_tasks(split))
      games = [seat.make_task(split, n) for n in numbers]
      for temperature in c.temperatures:
        played = {
          seed: self._play(
            params, games, (seed, EVALUATION, place), Sampling(temperature)
          )
          for seed in c.seeds
        }
        place += 1
        results.setdefault(split, {})[str(temperature)] = evaluate.by_seed(
          played, seat.world.kind
        )
    return results


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses a config that cannot work, before anything is made.

  Raises: ConfigError with the field, what it holds and what it may hold.
  """
  learner.check(config)
  model_lib.check(config)
  for field, least in _LEAST.items():
    section, name = field.split('.')
    if config[section][name] < least:
      raise types.ConfigError(
        f'{field} is {config[section][name]}; expected at least {least}.'
      )
  types.one_of('algo.reward', config.algo.reward, rewards.REWARDS)
  c = config.rollout
  if 0 < c.max_groups < c.groups:
    raise types.ConfigError(
      f'rollout.max_groups is {c.max_groups}; expected 0 or at least '
      f'rollout.groups={c.groups}.'
    )


def warm_start(
  config: ml_collections.ConfigDict, seat: Seat, folder: pathlib.Path
) -> tuple[Run, Any]:
  """Builds the run, and the params that RL starts from (the KL's reference).

  They stand in `folder/warm_start`, the run's own, and are made once for all
  runs with equal settings, in `cache` beside the run. A checkpoint that is not
  trained further is not copied.

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
  # Only the first one looks: a network file system would remember for the
  # others that there is nothing, after it was made.
  has_own, cached = (
    hosts.first_says(hosts.is_first() and path.exists())
    for path in (own, cache)
  )
  made_now = not has_own and not cached
  if not has_own:
    if cached:
      hosts.say(f'warm start: from {cache}')
    else:
      with _made_at_once(cache) as scratch:
        _make_warm_start(config, seat, scratch)
        if hosts.is_first():
          (scratch / 'key').write_text(cache.name)
    with _made_at_once(own) as scratch:
      if hosts.is_first():
        shutil.copytree(cache, scratch, dirs_exist_ok=True)
  if (own / 'key').read_text() != cache.name:
    raise checkpoint.CheckpointError(
      f'{own} was made with other settings of env, policy, warmstart or the '
      'template. Give them their old values, or another run_dir.'
    )
  policy = policy_lib.Policy(config, tokenizer_lib.load(own / 'tokenizer'))
  if not made_now:
    hosts.say(policy.memory())
  return Run(seat, policy), policy.warm_params(own)


def _make_warm_start(
  config: ml_collections.ConfigDict, seat: Seat, folder: pathlib.Path
) -> None:
  """Writes `tokenizer/` and `params/` from the expert's episodes."""
  found = list(expert_examples(config, seat))
  tokenizer = make_tokenizer(config, found)
  if hosts.is_first():
    tokenizer_lib.save(tokenizer, folder / 'tokenizer')
  policy = policy_lib.Policy(config, tokenizer)
  hosts.say(policy.memory())  # refuses what will not fit, before it is made
  if config.policy.checkpoint and not config.warmstart.games:
    return
  run = Run(seat, policy)
  params = run.policy.init_params()
  if config.warmstart.games:
    params = _clone(run, params, found[: config.warmstart.games])
  warmstart.save(folder / 'params', params)


def make_tokenizer(
  config: ml_collections.ConfigDict, found: Iterable[list[warmstart.Example]]
) -> Any:
  """Loads the tokenizer that the config names, or builds one from examples."""
  given = model_lib.tokenizer_folder(config.policy)
  if given:
    return tokenizer_lib.load(given)
  return tokenizer_lib.build(
    (text for example in found for text in warmstart.texts(example)),
    vocab_size=config.policy.vocab_size,
    chat_template=tokenizer_lib.CHAT_TEMPLATES[config.policy.chat],
  )


@contextlib.contextmanager
def _made_at_once(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Gives a scratch folder that becomes `folder` when all went well.

  Another run may have made the same meanwhile; then ours is dropped.
  """
  # No process id: in containers other runs have the same.
  name = f'{folder.name}.{hosts.first_says(secrets.randbits(30)):08x}.part'
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
  config: ml_collections.ConfigDict, seat: Seat
) -> Iterable[list[warmstart.Example]]:
  """Yields the expert's episodes, in words."""
  c = config.warmstart
  built = not model_lib.tokenizer_folder(config.policy)
  games = max(c.games, c.tokenizer_games if built else 0)
  numbers = tasks.demonstration_tasks(
    config.seed, games, seat.world.num_tasks('train')
  )
  for place, number in enumerate(
    tqdm.tqdm(numbers, 'expert episodes', disable=not hosts.is_first())
  ):
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
    [x for e in found for x in e], run.codec, run.policy.shapes.reply
  )
  if not turns:
    raise types.ConfigError(
      f'nothing to clone: {c.warmstart.games} games gave {len(found)} episodes '
      "that the expert won, and no reply of theirs fits. Raise the world's "
      'max_turns or sampling.max_reply.'
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

  params = warmstart.clone(
    params,
    turns,
    run.policy.score(1.0, run.policy.base),
    shapes=run.policy.shapes,
    epochs=c.warmstart.epochs,
    minibatch=c.warmstart.minibatch,
    learning_rate=c.warmstart.learning_rate,
    seed=c.seed,
    report=report,
    placed=run.policy.placed,
  )
  bar.close()
  return params


def _settings(config: ml_collections.ConfigDict, seat: Seat) -> dict[str, Any]:
  """What a warm start depends on, as JSON."""
  c = config
  settings = {n: c[n].to_dict() for n in ('env', 'policy', 'warmstart')}
  for field in ('template', 'template_file', *checkpoint.PLACES):
    del settings['env'][field]
  # Adapters come after it; these change rounding, speed and memory alone.
  for field in ('lora', 'cache_dtype', 'remat', 'attention'):
    del settings['policy'][field]
  shapes = ('max_reply', 'choice_buckets')
  rows = ('row_tokens', 'row_replies', 'row_turns', 'microbatch')
  return {
    **settings,
    'seed': c.seed,
    'words': seat.words,
    'sampling': {name: c.sampling[name] for name in shapes},
    'optim': {name: c.optim[name] for name in rows},
    **model_lib.fingerprints(c.policy),
  }
