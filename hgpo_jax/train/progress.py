"""How far a run is, and the files from which it goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from hgpo_jax import config as config_lib
from hgpo_jax import types
from hgpo_jax.config import Config
from hgpo_jax.multihost import agreement, hosts
from hgpo_jax.train import checkpoint, metrics, worlds


@dataclasses.dataclass(frozen=True)
class PendingRecord:
  """An iteration whose record is not written: its evaluation was interrupted.

  Attributes:
    step: the iteration.
    scalars: what is known of it without the evaluation.
  """

  step: int
  scalars: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Progress:
  """What a checkpoint holds beside the training state.

  Attributes:
    step: iterations done; the next one's number.
    results: evaluations by name, see `Actor.evaluate`.
    pending: a record that is to be written first.
  """

  step: int = 0
  results: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  pending: PendingRecord | None = None


class RunCheckpoints:
  """The checkpoints of one run, in `folder/checkpoints`."""

  def __init__(
    self,
    folder: pathlib.Path,
    config: Config,
    timer: metrics.PhaseTimer,
  ):
    """Opens them.

    Args:
      folder: the run's.
      config: saved with each of them, and compared on resume.
      timer: its seconds are saved, too, and restored.
    """
    self._config, self._timer = config, timer
    self._store = checkpoint.Checkpoints(
      folder / 'checkpoints', config.checkpoint.keep
    )

  def progress(self, resume: bool) -> Progress | None:
    """Returns how far the run is, None if nothing is saved yet.

    Raises: CheckpointError where something is saved and `resume` is not asked
      for, or where it was saved with another config.
    """
    store, step = self._store, agreement.newest(self._store)
    if step is None:
      if resume:
        hosts.say(
          f'{store.folder} holds no checkpoint yet: starting from the beginning'
        )
      return None
    if not resume:
      raise checkpoint.CheckpointError(
        f'{store.folder} holds a run (iteration {step}). Resume it, or give '
        'another run_dir.'
      )
    meta = store.meta()
    wrong = config_lib.differences(
      meta['config'],
      self._config.to_dict(),
      config_lib.fixed_on_resume,
      self._config,
    )
    if wrong:
      raise checkpoint.CheckpointError(
        f'{store.folder} belongs to another configuration (saved -> given): '
        f'{"; ".join(wrong)}. Give these fields their saved values, or another '
        'run_dir.'
      )
    hosts.say(f'resuming {store.folder} after iteration {meta["step"]}')
    pending = meta['pending'] and PendingRecord(**meta['pending'])
    return Progress(meta['step'], meta['results'], pending)

  def restore(self, like: types.TrainState) -> types.TrainState:
    """Reads the newest state; the arrays of `like` are deleted first."""
    self._timer.seconds.update(self._store.meta()['seconds'])
    return restored(self._store, freed(like))

  def save(self, state: types.TrainState, progress: Progress) -> None:
    """Writes a checkpoint from which iteration `progress.step` comes next."""
    meta = {
      **dataclasses.asdict(progress),
      'seconds': self._timer.seconds,
      'config': self._config.to_dict(),
    }
    self._store.save(progress.step, tree_of(state), meta)

  def how_to_resume(self, progress: Progress) -> str:
    """Says what is saved, and how to go on."""
    return (
      f'{progress.step} iterations are saved in {self._store.folder}. The same '
      'command with --resume goes on.'
    )

  @contextlib.contextmanager
  def saved_on_failure(
    self, state: types.TrainState, progress: Progress
  ) -> Iterator[None]:
    """Saves what was learned where playing fails, and raises the failure."""
    try:
      yield
    except worlds.PLAY_ERRORS as error:
      self.save(state, progress)
      hosts.say(f'\n{type(error).__name__}. {self.how_to_resume(progress)}')
      raise

  def close(self) -> None:
    """Closes the store."""
    self._store.close()


def restored(
  store: checkpoint.Checkpoints, like: types.TrainState
) -> types.TrainState:
  """Reads the newest state; frozen params are taken from `like`."""
  return _like(store.restore(tree_of(like)), like)


def freed(state: types.TrainState) -> types.TrainState:
  """Puts shapes in the place of arrays, and deletes the arrays.

  A state that is read beside another one of its size might not fit. Frozen
  params stay, as they are not read.
  """

  def shape(x: jax.Array) -> jax.ShapeDtypeStruct:
    struct = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    x.delete()
    return struct

  return _like(jax.tree.map(shape, tree_of(state)), state)


def tree_of(state: types.TrainState) -> dict[str, Any]:
  """What a checkpoint holds: all but frozen params, which the warm start has.

  A critic that does not exist has no entry.
  """
  tree = {
    'params': state.params,
    'opt_state': state.opt_state,
    'step': state.step,
    'frozen': {},
  }
  return tree | ({'critic': tree_of(state.critic)} if state.critic else {})


def _like(tree: dict[str, Any], state: types.TrainState) -> types.TrainState:
  """Undoes `tree_of`."""
  critic = state.critic and _like(tree['critic'], state.critic)
  fields = {**tree, 'frozen': state.frozen, 'critic': critic}
  return dataclasses.replace(state, **fields)
