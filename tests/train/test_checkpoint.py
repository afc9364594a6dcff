"""State on disk: equal after a round trip, refused when it does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hgpo_jax.train import checkpoint


@pytest.fixture
def store(tmp_path):
  store = checkpoint.Checkpoints(tmp_path / 'c', keep=2)
  yield store
  store.close()


def state(width=3, seed=0.0):
  return {
    'params': {'w': jnp.arange(width * 2.0).reshape(width, 2) + seed},
    'step': jnp.int32(7),
  }


def test_round_trip_is_exact_and_the_last_ones_are_kept(store):
  for step in range(4):
    store.save(step, state(seed=step), {'step': step})
  assert store.latest() == 3
  restored = store.restore(state())
  jax.tree.map(np.testing.assert_array_equal, restored, state(seed=3))
  assert store.meta()['step'] == 3
  assert sorted(p.name for p in store.folder.iterdir()) == ['2', '3']


def test_other_shapes_are_named(store):
  store.save(0, state(), {})
  with pytest.raises(
    checkpoint.CheckpointError, match=r'params/w: float32\[3, 2\]'
  ):
    store.restore(state(width=4))
  with pytest.raises(checkpoint.CheckpointError, match='extra: absent'):
    store.restore({**state(), 'extra': jnp.zeros(1)})


def test_another_dtype_is_a_misfit_and_not_damage(store):
  store.save(0, state(), {})
  other = {**state(), 'params': {'w': jnp.zeros((3, 2), jnp.bfloat16)}}
  with pytest.raises(checkpoint.CheckpointError, match='bfloat16.*config'):
    store.restore(other)


def test_params_alone_can_be_read(store):
  store.save(0, state(seed=5), {})
  more = jax.ShapeDtypeStruct((9,), jnp.float32)
  with pytest.raises(checkpoint.CheckpointError, match='params/v: absent'):
    store.restore_params({**state()['params'], 'v': more})
  params = store.restore_params(state()['params'])
  jax.tree.map(np.testing.assert_array_equal, params, state(seed=5)['params'])


def test_a_save_that_cannot_be_is_told(store):
  store.save(5, state(), {})
  with pytest.raises(checkpoint.CheckpointError, match='later steps than 3'):
    store.save(3, state(), {})


def test_a_damaged_file_is_refused_and_the_older_step_named(store):
  store.save(0, state(), {})
  store.save(1, state(), {})
  for path in (store.folder / '1' / 'state').rglob('d/*'):
    path.write_bytes(b'broken' + path.read_bytes()[6:])
  with pytest.raises(checkpoint.CheckpointError, match='damaged.*step 0'):
    store.restore(state(), 1)


def test_nothing_there(store):
  nowhere = store.folder / 'nothing'
  with (
    pytest.raises(checkpoint.CheckpointError, match='nothing does not exist'),
    checkpoint.opened(nowhere),
  ):
    pass
  with pytest.raises(checkpoint.CheckpointError, match='no checkpoint'):
    store.restore(state())
  with pytest.raises(checkpoint.CheckpointError, match=r'no checkpoint 0 \('):
    store.restore(state(), 0)


def flip_one_bit(folder):
  """In the largest file, which holds an array's numbers uncompressed."""
  path = max(folder.rglob('d/*'), key=lambda p: p.stat().st_size)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(bytes(data))


def test_one_flipped_bit_is_refused(store):
  """Orbax reads it as it is."""
  noise = jnp.asarray(np.random.default_rng(0).normal(size=5000), jnp.float32)
  saved = {'params': {'w': noise}, 'step': jnp.int32(7)}
  store.save(0, saved, {})
  flip_one_bit(store.folder / '0' / 'state')
  for read in (
    store.restore,
    lambda like: store.restore_params(like['params']),
  ):
    with pytest.raises(
      checkpoint.CheckpointError, match=r'differ in params/w\)'
    ):
      read(saved)
