"""Every field of an experiment: its default, type, unit, meaning and kind."""

from __future__ import annotations

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Env:
  """The world, its words, and where it is played."""

  world: str = field(
    'alfworld',
    "a name in envs/registry.py, or 'module:Class'",
    marks=('warm_start', 'budget'),
  )
  servers: int = field(
    0,
    "server processes; 0 plays in the trainer's process",
    kind='place',
    marks=('per_process',),
    least=0,
  )
  addresses: tuple[str, ...] = field(
    (),
    "'host:port' of remote servers (envs/README.md)",
    kind='place',
    marks=('per_process',),
  )
  token_file: str = field(
    '',
    "holds what they ask for; '' shows nothing",
    kind='place',
    marks=('per_process',),
  )
  ca_file: str = field(
    '',
    "PEM certificates to trust; '' connects without TLS",
    kind='place',
    marks=('per_process',),
  )
  timeout: float = field(
    120.0,
    'until a server that does not answer is left',
    unit='s',
    kind='place',
    marks=('per_process',),
  )
  patience: float = field(
    600.0,
    'to go on without an answer from any server',
    unit='s',
    kind='place',
    marks=('per_process',),
  )
  history: int = field(
    2,
    'K: past turns in a prompt',
    unit='turns',
    marks=('warm_start',),
    least=0,
  )
  template: str = field('paper', 'a preset of the world')
  template_file: str = field('', 'JSON file of a template, instead of a preset')
  constrained: bool = field(
    False, 'decode admissible actions only', marks=('warm_start',)
  )
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


_WARM: Any = ('warm_start',)


@dataclasses.dataclass(frozen=True)
class Policy:
  """The model that plays and learns."""

  preset: str = field('tiny', 'a size in hgpo_jax/model', marks=_WARM)
  layers: int = field(0, "blocks; 0 keeps the preset's", marks=_WARM, least=0)
  width: int = field(
    0, "hidden size; 0 keeps the preset's", marks=_WARM, least=0
  )
  ff_width: int = field(
    0, "feed-forward size; 0 keeps the preset's", marks=_WARM, least=0
  )
  tokenizer: str = field(
    '', "Hugging Face folder; '' builds one from the world's text", marks=_WARM
  )
  vocab_size: int = field(
    1024, 'of a built tokenizer, at most', unit='tokens', marks=_WARM
  )
  chat: str = field(
    'qwen', "markers of a built tokenizer: 'qwen' or 'short'", marks=_WARM
  )
  embed_std: float = field(0.02, 'of random embeddings', marks=_WARM)
  compose_embeddings: bool = field(
    False, 'phrases start as sums of their words', marks=_WARM
  )
  checkpoint: str = field(
    '', 'Hugging Face folder or hub id, instead of a preset', marks=_WARM
  )
  dtype: Float = field(
    'bfloat16', 'of activations and matrix products', marks=_WARM
  )
  param_dtype: Float = field(
    'float32', 'of stored params; others need adapters', marks=_WARM
  )
  cache_dtype: Float = field('bfloat16', 'of cached keys and values')
  remat: str = field(
    'none',
    "what a backward pass keeps: 'none' recomputes nothing, 'dots', 'full'",
    kind='speed',
  )
  attention: str = field(
    'auto',
    "the platform's; a name in hgpo_jax/model/attention.py",
    kind='speed',
  )
  lora: Lora = section(Lora)


@dataclasses.dataclass(frozen=True)
class Mesh:
  """Devices along each axis."""

  data: int = field(1, 'rows; params are copied', kind='speed')
  fsdp: int = field(-1, 'rows and params; -1 takes what is left', kind='speed')
  tensor: int = field(1, 'heads; must divide the query heads', kind='speed')
  device_gib: float = field(
    0.0, 'memory of a device; 0 asks it', unit='GiB', kind='place'
  )


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How replies are drawn, and the shapes that are compiled for it."""

  temperature: float = field(1.0, 'of the softmax; 0 is greedy', least=0)
  top_k: int = field(0, 'most likely tokens that are kept; 0 is off', least=0)
  top_p: float = field(
    1.0, 'probability of the tokens that are kept; 1 is off', least=0, most=1
  )
  max_reply: int = field(512, 'of a reply, at most', unit='tokens', marks=_WARM)
  prompt_buckets: tuple[int, ...] = field(
    (512, 1024, 2048, 4096),
    'lengths that prompts are padded to; longer ones lose their head',
    unit='tokens',
  )
  prefill_buckets: tuple[int, ...] = field(
    (4, 16), 'prompts that are read at once', kind='speed'
  )
  prefill_rows: int = field(
    8, 'prompts that wait, before other rows are interrupted', kind='speed'
  )
  chunk: int = field(
    16,
    'of each row between two looks at the rows',
    unit='tokens',
    kind='speed',
  )
  choice_buckets: tuple[int, ...] = field(
    (32, 64, 128), 'numbers of allowed replies of a prompt', marks=_WARM
  )


_BUDGET: Any = ('budget',)


@dataclasses.dataclass(frozen=True)
class Rollout:
  """What is played in an iteration, and how."""

  groups: int = field(16, 'tasks per iteration', marks=_BUDGET, least=1)
  max_groups: int = field(
    0,
    'play up to so many, until `groups` of them hold episodes of different '
    'rewards, and learn from these; 0 learns from all',
    marks=_BUDGET,
    least=0,
  )
  group_size: int = field(8, 'episodes per task', marks=_BUDGET, least=1)
  episodes: int = field(
    128, 'episodes that are played at once', kind='speed', least=1
  )
  decode_rows: int = field(
    0, 'of these, decoded together; 0 is all', kind='speed', least=0
  )
  workers: int = field(
    0,
    'threads that call environments; 0 calls them in turn',
    kind='speed',
    marks=('per_process',),
    least=0,
  )
  lockstep: bool = field(
    False, 'all episodes wait for each other in every turn', kind='speed'
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
  found: dict[str, Any] = {PPO: Ppo()}
  for name, fn in ESTIMATORS.items():
    section = options_of(fn)
    more = {}
    if hasattr(section, 'depth'):
      more['depth'] = depth
    if name == 'gigpo':
      more['similarity'] = similarity
    found[name] = (options_of(fn, **more) if more else section)()
  return MappingProxyType(found)


@dataclasses.dataclass(frozen=True)
class Algo:
  """Rewards, and the estimator of advantages with its options."""

  estimator: str = field(
    'hgpo',
    'a name in hgpo_jax/advantages',
    choices=(*ESTIMATORS, PPO),
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
  row_tokens: int = field(
    4608,
    'of a packed row: prompts and replies',
    unit='tokens',
    kind='speed',
    marks=_WARM,
  )
  row_replies: int = field(
    1024,
    'of the replies in a packed row, at least sampling.max_reply',
    unit='tokens',
    kind='speed',
    marks=_WARM,
  )
  row_turns: int = field(
    16, 'in a packed row, at most', unit='turns', kind='speed', marks=_WARM
  )
  microbatch_rows: int = field(
    1, 'per gradient', unit='packed rows', kind='speed', marks=_WARM
  )
  logits_chunk: int = field(
    512,
    'reply tokens of a row whose logits are there at once',
    unit='tokens',
    kind='speed',
    least=1,
  )


@dataclasses.dataclass(frozen=True)
class WarmStart:
  """The tokenizer, and behaviour cloning of the world's expert."""

  games: int = field(
    0, 'expert episodes to clone; 0 skips it', marks=_WARM, least=0
  )
  tokenizer_games: int = field(
    256, 'at least so many for a built tokenizer', marks=_WARM
  )
  epochs: int = field(1, 'passes over what is cloned', marks=_WARM)
  learning_rate: float = field(1e-3, 'the peak', marks=_WARM)
  minibatch_turns: int = field(
    256, 'per optimiser step', unit='turns', marks=_WARM
  )
  explore: float = field(
    1.0, 'how often the expert looks before it knows', marks=_WARM
  )
  noise: float = field(
    0.0, 'share of random moves played (not cloned)', marks=_WARM
  )


@dataclasses.dataclass(frozen=True)
class Eval:
  """The games that success is measured on."""

  every: int = field(
    0,
    'between evaluations; 0 only at the end',
    unit='iterations',
    kind='speed',
    marks=_BUDGET,
  )
  games: int = field(
    512,
    'per split, temperature and seed; 0 plays all, -1 skips evaluation',
    marks=_BUDGET,
  )
  splits: tuple[str, ...] = field(
    ('valid_seen', 'valid_unseen'), 'of the world', marks=_BUDGET
  )
  temperatures: tuple[float, ...] = field(
    (1.0, 0.4), 'of sampling', marks=_BUDGET
  )
  seeds: tuple[int, ...] = field(
    (123,), 'of sampling; each plays all games once', marks=_BUDGET
  )


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """What is saved of a run."""

  every: int = field(
    10,
    'between checkpoints; 0 only at the end',
    unit='iterations',
    kind='place',
  )
  keep: int = field(3, 'newest ones that are kept', kind='place')


@dataclasses.dataclass(frozen=True)
class Config:
  """An experiment; the defaults are the paper's ALFWorld settings (sec. 5)."""

  seed: int = field(0, 'of everything that is random', marks=_WARM)
  run_dir: str = field(
    '',
    "where everything is written; '' means runs/<the config's name>",
    kind='place',
  )
  cell: str = field('', "name of the paper's cell that this is; '' is none")
  iterations: int = field(
    160, 'rollout and update', marks=('grows', 'budget'), least=0
  )
  samples_every: int = field(
    10,
    'between written sample episodes; 0 is off',
    unit='iterations',
    kind='place',
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
