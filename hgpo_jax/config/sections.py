"""Every field of an experiment: its default, type, unit, meaning and kind."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from hgpo_jax.advantages import ESTIMATORS
from hgpo_jax.config.fields import default_of, field, options_of, section
from hgpo_jax.config.fields import to_dict as fields_to_dict
from hgpo_jax.losses import SURROGATES, aggregate, kl

PPO = 'ppo'  # the estimator that has a critic
CLIPPED = 'clipped'  # the surrogate whose options are fields of `loss`
Float = Literal['float32', 'bfloat16', 'float16']

_speed = functools.partial(field, kind='speed')
_place = functools.partial(field, kind='place')
_own = functools.partial(field, kind='place', marks=('per_process',))
_warm = functools.partial(field, marks=('warm_start',))
_packed = functools.partial(field, kind='speed', marks=('warm_start',))
_budget = functools.partial(field, marks=('budget',))


@dataclasses.dataclass(frozen=True)
class Env:
  """The world, its words, and where it is played."""

  world: str = field(
    'alfworld',
    "a name in envs/registry.py, or 'module:Class'",
    marks=('warm_start', 'budget'),
    axis='world',
  )
  servers: int = _own(
    0, "server processes; 0 plays in the trainer's process", least=0
  )
  addresses: tuple[str, ...] = _own(
    (), "'host:port' of remote servers (envs/README.md)"
  )
  token_file: str = _own('', "holds what they ask for; '' shows nothing")
  ca_file: str = _own('', "PEM certificates to trust; '' connects without TLS")
  timeout: float = _own(
    120.0, 'until a server that does not answer is left', unit='s', least=0
  )
  patience: float = _own(
    600.0, 'to go on without an answer from any server', unit='s', least=0
  )
  history: int = _warm(
    2, 'K: past turns in a prompt', unit='turns', least=0, axis='k'
  )
  template: str = field('paper', 'a preset of the world')
  template_file: str = field('', 'JSON file of a template, instead of a preset')
  constrained: bool = _warm(False, 'decode admissible actions only')
  options: Mapping[str, Any] = dataclasses.field(
    default_factory=lambda: MappingProxyType({})
  )

  @property
  def chosen(self) -> dict[str, Any]:
    """The options of the world that is played."""
    section = self.options.get(self.world)
    return {} if section is None else fields_to_dict(section)


@dataclasses.dataclass(frozen=True)
class Lora:
  """Low-rank adapters, which are trained alone."""

  rank: int = field(0, '0 trains the whole policy')
  alpha: float = field(32.0, 'their scale is alpha / rank')
  targets: tuple[str, ...] = field(
    (), 'names of linear layers; () takes all of them'
  )


@dataclasses.dataclass(frozen=True)
class Policy:
  """The model that plays and learns."""

  preset: str = _warm('tiny', 'a size in hgpo_jax/model', axis='size')
  layers: int = _warm(0, "blocks; 0 keeps the preset's", least=0)
  width: int = _warm(0, "hidden size; 0 keeps the preset's", least=0)
  ff_width: int = _warm(0, "feed-forward size; 0 keeps the preset's", least=0)
  tokenizer: str = _warm(
    '', "Hugging Face folder; '' builds one from the world's text"
  )
  vocab_size: int = _warm(1024, 'of a built tokenizer, at most', unit='tokens')
  chat: str = _warm('qwen', "markers of a built tokenizer: 'qwen' or 'short'")
  embed_std: float = _warm(0.02, 'of random embeddings')
  compose_embeddings: bool = _warm(
    False, 'phrases start as sums of their words'
  )
  checkpoint: str = _warm(
    '', 'Hugging Face folder or hub id, instead of a preset'
  )
  dtype: Float = _warm('bfloat16', 'of activations and matrix products')
  param_dtype: Float = _warm(
    'float32', 'of stored params; others need adapters'
  )
  cache_dtype: Float = field('bfloat16', 'of cached keys and values')
  remat: str = _speed(
    'none',
    "what a backward pass keeps: 'none' recomputes nothing, 'dots', 'full'",
  )
  attention: str = _speed(
    'auto', "the platform's; a name in hgpo_jax/model/attention.py"
  )
  lora: Lora = section(Lora)


@dataclasses.dataclass(frozen=True)
class Mesh:
  """Devices along each axis."""

  data: int = _speed(1, 'rows; params are copied')
  fsdp: int = _speed(-1, 'rows and params; -1 takes what is left')
  tensor: int = _speed(1, 'heads; must divide the query heads')
  device_gib: float = _place(
    0.0, 'memory of a device; 0 asks it', unit='GiB', least=0
  )


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How replies are drawn, and the shapes that are compiled for it."""

  temperature: float = field(1.0, 'of the softmax; 0 is greedy', least=0)
  top_k: int = field(0, 'most likely tokens that are kept; 0 is off', least=0)
  top_p: float = field(
    1.0, 'probability of the tokens that are kept; 1 is off', least=0, most=1
  )
  max_reply: int = _warm(512, 'of a reply, at most', unit='tokens', least=1)
  prompt_buckets: tuple[int, ...] = field(
    (512, 1024, 2048, 4096),
    'lengths that prompts are padded to; longer ones lose their head',
    unit='tokens',
  )
  prefill_buckets: tuple[int, ...] = _speed(
    (4, 16), 'prompts that are read at once'
  )
  prefill_rows: int = _speed(
    8, 'prompts that wait, before other rows are interrupted', least=1
  )
  chunk: int = _speed(
    16, 'of each row between two looks at the rows', unit='tokens', least=1
  )
  choice_buckets: tuple[int, ...] = _warm(
    (32, 64, 128), 'numbers of allowed replies of a prompt'
  )


@dataclasses.dataclass(frozen=True)
class Rollout:
  """What is played in an iteration, and how."""

  groups: int = _budget(16, 'tasks per iteration', least=1)
  max_groups: int = _budget(
    0,
    'play up to so many, until `groups` of them hold episodes of different '
    'rewards, and learn from these; 0 learns from all',
    least=0,
  )
  group_size: int = _budget(8, 'episodes per task', least=1)
  episodes: int = _speed(128, 'episodes that are played at once', least=1)
  decode_rows: int = _speed(0, 'of these, decoded together; 0 is all', least=0)
  workers: int = field(
    0,
    'threads that call environments; 0 calls them in turn',
    kind='speed',
    marks=('per_process',),
    least=0,
  )
  lockstep: bool = _speed(
    False, 'all episodes wait for each other in every turn'
  )


@dataclasses.dataclass(frozen=True)
class Ppo:
  """PPO with a critic; see hgpo_jax/train/critic.py.

  What has a value is also what `algo.gamma` and `lam` count: with tokens and
  long replies they belong near 1.
  """

  level: Literal['turn', 'token'] = field('turn', 'what has a value')
  lam: float = field(
    1.0, 'lambda of the generalised advantage estimation', least=0, most=1
  )
  value_clip: float = field(
    0.5, 'that a value may move in an iteration', unit='reward'
  )
  bootstrap_truncated: bool = field(
    False,
    'an episode that the step limit ended is worth more than its rewards; the '
    'success that is reported, and other estimators, call it failed',
  )
  critic_learning_rate: float = field(1e-5, 'the peak; all else as in `optim`')
  critic_warmup: int = field(
    0, 'of the critic, before the policy moves', unit='updates', least=0
  )


def _estimator_options() -> Mapping[str, Any]:
  """Sections of all estimators, read off their functions."""
  # What an estimator is given by others than its function's defaults.
  depth = field(
    -1, 'K of its contexts; -1 is env.history', unit='turns', least=-1
  )
  similarity = field(1.0, 'observations so alike are one; 1 is equality')
  sections: dict[str, Any] = {PPO: Ppo()}
  for name, fn in ESTIMATORS.items():
    own = {}
    if 'depth' in inspect.signature(fn).parameters:
      own['depth'] = depth
    if name == 'gigpo':
      own['similarity'] = similarity
    sections[name] = options_of(fn, **own)()
  return MappingProxyType(sections)


@dataclasses.dataclass(frozen=True)
class Algo:
  """Rewards, and the estimator of advantages with its options."""

  estimator: str = field(
    'hgpo',
    'a name in hgpo_jax/advantages',
    choices=(*ESTIMATORS, PPO),
    axis='method',
  )
  gamma: float = field(0.95, 'discount per turn', least=0, most=1)
  reward: str = field(
    'success', "1 for a won episode; 'world': the world's own"
  )
  reward_scale: float = field(10.0, 'rewards are multiplied by this')
  invalid_penalty: float = field(
    0.1, "on a malformed reply's own row", unit='reward'
  )
  shuffle_advantages: bool = field(
    False, 'the control: right sizes, wrong rows'
  )
  advantage_sign: float = field(1.0, '-1 unlearns; for tests')
  options: Mapping[str, Any] = dataclasses.field(
    default_factory=_estimator_options
  )

  @property
  def ppo(self) -> Ppo:
    """The options of PPO."""
    ppo: Ppo = self.options[PPO]
    return ppo

  @property
  def chosen(self) -> dict[str, Any]:
    """The options of the estimator that is used."""
    return fields_to_dict(self.options[self.estimator])


def _surrogate_options() -> Mapping[str, Any]:
  """Sections of all surrogates but the clipped one."""
  return MappingProxyType(
    {n: options_of(fn)() for n, fn in SURROGATES.items() if n != CLIPPED}
  )


@dataclasses.dataclass(frozen=True)
class Loss:
  """The surrogate with its options, the KL and the entropy bonus."""

  surrogate: str = field(
    CLIPPED, 'a name in hgpo_jax/losses', choices=tuple(SURROGATES)
  )
  clip_low: float = default_of(
    SURROGATES[CLIPPED], 'clip_low', "of 'clipped': the ratio may fall by it"
  )
  clip_high: float = default_of(
    SURROGATES[CLIPPED],
    'clip_high',
    "of 'clipped': the ratio may rise by it; 0.28 in DAPO",
  )
  dual_clip: float | None = default_of(
    SURROGATES[CLIPPED],
    'dual_clip',
    "of 'clipped': bound where the advantage is negative; 10 in DAPO",
  )
  kl: str = field(
    'k3', 'a name in hgpo_jax/losses/kl.py', choices=tuple(kl.ESTIMATORS)
  )
  kl_coef: float = field(0.01, 'weight of the KL to the reference')
  entropy_coef: float = field(0.001, 'weight of the entropy')
  aggregation: str = field(
    'token-mean',
    'a name in hgpo_jax/losses/aggregate.py',
    choices=tuple(aggregate.AGGREGATES),
  )
  old_log_probs: Literal['score', 'sampler'] = field(
    'score', "'sampler' trusts the sampler's own"
  )
  options: Mapping[str, Any] = dataclasses.field(
    default_factory=_surrogate_options
  )

  @property
  def chosen(self) -> dict[str, Any]:
    """The options of the surrogate that is used."""
    if self.surrogate == CLIPPED:
      names = fields_to_dict(options_of(SURROGATES[CLIPPED])())
      return {name: getattr(self, name) for name in names}
    return fields_to_dict(self.options[self.surrogate])


@dataclasses.dataclass(frozen=True)
class Optim:
  """The optimiser, its mini-batches, and the rows of packed turns."""

  learning_rate: float = field(1e-6, 'the peak', least=0)
  warmup_steps: int = field(0, 'below the peak', unit='updates')
  decay_steps: int = field(
    0, 'until a cosine ends; 0 stays constant', unit='updates'
  )
  weight_decay: float = field(0.01, 'on matrices')
  clip_norm: float = field(1.0, 'of the whole gradient')
  b1: float = field(0.9, "decay of Adam's first moment")
  b2: float = field(0.999, "decay of Adam's second moment")
  moments_dtype: Literal['float32', 'bfloat16'] = field(
    'float32', "of Adam's moments"
  )
  epochs: int = field(1, 'passes over the turns of an iteration', least=1)
  minibatch_turns: int = field(
    256, 'per optimiser step, at most', unit='turns', least=1
  )
  # Of another kind than its neighbours: a longer turn loses its prompt's head.
  row_tokens: int = _warm(
    4608, 'of a packed row: prompts and replies', unit='tokens'
  )
  row_replies: int = _packed(
    1024,
    'of the replies in a packed row, at least sampling.max_reply',
    unit='tokens',
  )
  row_turns: int = _packed(
    16, 'in a packed row, at most', unit='turns', least=1
  )
  microbatch_rows: int = _packed(1, 'per gradient', unit='packed rows', least=1)
  logits_chunk: int = _speed(
    512,
    'reply tokens of a row whose logits are there at once',
    unit='tokens',
    least=1,
  )


@dataclasses.dataclass(frozen=True)
class WarmStart:
  """The tokenizer, and behaviour cloning of the world's expert."""

  games: int = _warm(
    0, 'of the expert that are cloned; 0 skips it', unit='episodes', least=0
  )
  tokenizer_games: int = _warm(
    256, 'at least, for a built tokenizer', unit='episodes', least=0
  )
  epochs: int = _warm(1, 'passes over what is cloned', least=1)
  learning_rate: float = _warm(1e-3, 'the peak', least=0)
  minibatch_turns: int = _warm(256, 'per optimiser step', unit='turns', least=1)
  explore: float = _warm(1.0, 'how often the expert looks before it knows')
  noise: float = _warm(0.0, 'share of random moves played (not cloned)')


@dataclasses.dataclass(frozen=True)
class Eval:
  """The games that success is measured on."""

  every: int = field(
    0,
    'between evaluations; 0 only at the end',
    unit='iterations',
    kind='speed',
    marks=('budget',),
  )
  games: int = _budget(
    512, 'per split, temperature and seed; 0 plays all, -1 skips evaluation'
  )
  splits: tuple[str, ...] = _budget(
    ('valid_seen', 'valid_unseen'), 'of the world'
  )
  temperatures: tuple[float, ...] = _budget((1.0, 0.4), 'of sampling')
  seeds: tuple[int, ...] = _budget(
    (123,), 'of sampling; each plays all games once'
  )


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """What is saved of a run."""

  every: int = _place(
    10, 'between checkpoints; 0 only at the end', unit='iterations'
  )
  keep: int = _place(3, 'newest ones that are kept', least=1)


@dataclasses.dataclass(frozen=True)
class Config:
  """An experiment; the defaults are the paper's ALFWorld settings (sec. 5)."""

  seed: int = _warm(0, 'of everything that is random', axis='seed')
  run_dir: str = _place(
    '', "where everything is written; '' means runs/<the config's name>"
  )
  cell: str = field('', "name of the paper's cell that this is; '' is none")
  iterations: int = field(
    160, 'rollout and update', marks=('grows', 'budget'), least=0
  )
  samples_every: int = _place(
    10, 'between written sample episodes; 0 is off', unit='iterations'
  )
  env: Env = section(Env)
  policy: Policy = section(Policy)
  mesh: Mesh = section(Mesh)
  sampling: Sampling = section(Sampling)
  rollout: Rollout = section(Rollout)
  algo: Algo = section(Algo)
  loss: Loss = section(Loss)
  optim: Optim = section(Optim)
  warmstart: WarmStart = section(WarmStart)
  eval: Eval = section(Eval)
  checkpoint: Checkpoint = section(Checkpoint)

  def to_dict(self) -> dict[str, Any]:
    """Nested dicts of plain values, as JSON has them."""
    return fields_to_dict(self)
