"""Everything that is refused of a config, before anything is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from hgpo_jax import config as config_lib
from hgpo_jax import types
from hgpo_jax.advantages import Rows
from hgpo_jax.config import Config
from hgpo_jax.model import attention, registry, remat, sharding
from hgpo_jax.model import tokenizer as tokenizer_lib
from hgpo_jax.rollout.environments import Environments
from hgpo_jax.train import (
  batching,
  build,
  estimators,
  rewards,
  tasks,
  update,
)

# Makes the mesh that a config asks for; None is a single device.
MeshOf = Callable[[Config], Any]


def check(config: Config, mesh: MeshOf = build.mesh_of) -> None:
  """Refuses a config that cannot work.

  Args:
    config: the experiment.
    mesh: makes its mesh; `build.planned_mesh` of devices that are not here.

  Raises: ConfigError with a line for each thing that is wrong: the field, what
    it holds and what it may hold.
  """
  if wrong := problems(config, mesh):
    raise types.ConfigError('\n'.join(wrong))


def check_games(config: Config, environments: Environments) -> None:
  """Refuses splits that the world does not have, before anything is played.

  Raises: ConfigError that names the split; what the world itself raises.
  """
  for split in config.eval.splits if config.eval.games >= 0 else ():
    tasks.eval_tasks(
      config.eval.games, environments.world.num_tasks(split), split
    )


def problems(config: Config, mesh: MeshOf = build.mesh_of) -> list[str]:
  """Lists what is wrong with a config; see `check`."""
  return [
    *config_lib.problems(config),
    *_names(config),
    *_policy(config),
    *_mesh(config, mesh),
    *_rollout(config),
    *_algo(config),
    *_loss(config),
    *_decoding(config),
    *_packing(config),
  ]


def _tried(field: str, fn: Callable[[], Any]) -> Iterator[str]:
  """What a constructor, or a function on shapes alone, has against a config."""
  try:
    fn()
  except (TypeError, ValueError) as error:
    text = str(error)
    yield text if isinstance(error, types.ConfigError) else f'{field}: {text}'


def _names(config: Config) -> Iterator[str]:
  """Names that are known to other modules than the config's."""
  c = config.policy
  for field, value, known in (
    ('policy.preset', c.preset, registry.presets()),
    ('policy.chat', c.chat, tokenizer_lib.CHAT_TEMPLATES),
    ('policy.remat', c.remat, remat.POLICIES),
    ('policy.attention', c.attention, ('auto', *attention.IMPLEMENTATIONS)),
    ('algo.reward', config.algo.reward, rewards.REWARDS),
  ):
    if value not in known:
      yield f'{field} is {value!r}; expected one of {sorted(known)}.'


def _policy(config: Config) -> Iterator[str]:
  c = config.policy
  if c.param_dtype != 'float32' and not c.lora.rank:
    yield (
      f'policy.param_dtype is {c.param_dtype!r} with policy.lora.rank=0: steps '
      'of the optimiser are smaller than its rounding and would be lost. Train '
      "'float32' params (policy.dtype is that of the products), or adapters."
    )
  for name, size in (
    ('layers', c.layers),
    ('width', c.width),
    ('ff_width', c.ff_width),
  ):
    if c.checkpoint and size:
      yield (
        f'policy.{name} is {size} with policy.checkpoint={c.checkpoint!r}: '
        'expected 0, as the checkpoint has its own size.'
      )
  if c.preset in registry.presets():
    yield from _tried('policy.lora', lambda: build.adapted(c))


def _mesh(config: Config, mesh_of: MeshOf) -> Iterator[str]:
  """What is refused: no such mesh; rows that could not be split over it."""
  wrong = list(_tried('mesh', lambda: mesh_of(config)))
  yield from wrong
  mesh = None if wrong else mesh_of(config)
  shape = dict.fromkeys(sharding.AXES, 1) | (dict(mesh.shape) if mesh else {})
  ways = shape['data'] * shape['fsdp']
  policy = config.policy
  if policy.preset in registry.presets() and not policy.checkpoint:
    model = build.adapted(dataclasses.replace(policy, lora=config_lib.Lora()))
    yield from _tried('mesh', lambda: sharding.check(model, shape))
  c = config.rollout
  for field, rows in (
    ('optim.microbatch_rows', config.optim.microbatch_rows),
    ('rollout.decode_rows (or episodes)', c.decode_rows or c.episodes),
  ):
    if rows % ways:
      yield (
        f'{field} is {rows}; expected a multiple of the {ways} devices along '
        f'mesh.data and mesh.fsdp, such as {-(-rows // ways) * ways}.'
      )


def _decoding(config: Config) -> Iterator[str]:
  c = config.sampling
  for name, sizes in (
    ('prompt_buckets', c.prompt_buckets),
    ('prefill_buckets', c.prefill_buckets),
  ):
    if min(sizes, default=0) < 1:
      yield f'sampling.{name} is {sizes}; expected at least one positive size.'


def _packing(config: Config) -> Iterator[str]:
  yield from _tried('optim', lambda: build.shapes_of(config))
  optim = config.optim
  chunk = min(optim.logits_chunk, optim.row_replies)
  if chunk > 0 and optim.row_replies % chunk:
    yield (
      f'optim.logits_chunk is {chunk}; expected a divisor of '
      f'optim.row_replies={optim.row_replies}.'
    )


def _rollout(config: Config) -> Iterator[str]:
  c = config.rollout
  if 0 < c.max_groups < c.groups:
    yield (
      f'rollout.max_groups is {c.max_groups}; expected 0 or at least '
      f'rollout.groups={c.groups}.'
    )


def _loss(config: Config) -> Iterator[str]:
  c = config.loss
  if list(config_lib.problems(c)):
    return  # said already
  real = jax.ShapeDtypeStruct((2, 3), 'float32')
  surrogate = update.make_policy_loss(c).surrogate
  yield from _tried(
    f'loss.{c.surrogate}',
    lambda: jax.eval_shape(surrogate, real, real, real, real),
  )


def _algo(config: Config) -> Iterator[str]:
  c = config.algo
  if list(config_lib.problems(c)):
    return  # said already
  options = c.chosen
  field = f'algo.{c.estimator}'
  for name in ('max_return', 'value_clip', 'similarity'):
    if name in options and not options[name] > 0:
      yield f'{field}.{name} is {options[name]}; expected more than 0.'
  if options.get('similarity', 1) > 1:
    yield (
      f'{field}.similarity is {options["similarity"]}; expected at most 1, '
      'which is equality.'
    )
  if c.estimator != config_lib.PPO:
    rows = _rows(estimators.FIELDS.get(c.estimator, ()))
    fn = estimators.estimator(config)
    yield from _tried(field, lambda: jax.eval_shape(fn, rows))


def _rows(optional: tuple[str, ...]) -> Rows:
  """Shapes of four steps, with some of the optional fields."""
  number, real = (jax.ShapeDtypeStruct((4,), t) for t in ('int32', 'float32'))
  fields: dict[str, Any] = {
    **dict.fromkeys(('task', 'traj', 'turn', 'obs', 'act'), number),
    **dict.fromkeys(('episode_return', 'returns'), real),
    'mask': jax.ShapeDtypeStruct((4,), 'bool'),
  }
  optional_fields: dict[str, Any] = {
    'outcome': number,
    'scores': jax.ShapeDtypeStruct((4, batching.SCORES), 'float32'),
  }
  return Rows(**fields, **{name: optional_fields[name] for name in optional})
