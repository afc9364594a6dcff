"""NGRPO and MC-GRPO: numbers by hand, and which episodes the loss keeps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hgpo_jax.advantages import robust
from tests import workloads

ngrpo = jax.jit(functools.partial(robust.ngrpo, max_return=1.0))
mc_grpo = jax.jit(robust.mc_grpo, static_argnames=('rescale', 'count'))
mc_grpo_kept = jax.jit(robust.mc_grpo_kept)


def test_ngrpo_blames_where_all_failed():
  failed = ngrpo(workloads.episodes_of([0.0, 0.0, 0.0, 0.0]))
  np.testing.assert_allclose(failed, -0.447213, atol=1e-6)
  once = ngrpo(workloads.episodes_of([1.0, 0.0, 0.0, 0.0]))
  np.testing.assert_allclose(once, [1.095443] + [-0.730295] * 3, atol=1e-6)
  solved = ngrpo(workloads.episodes_of([1.0, 1.0, 1.0, 1.0]))
  np.testing.assert_array_equal(solved, 0)


def test_ngrpo_needs_no_second_episode():
  four = workloads.episodes_of([0.0] * 4, task=[0, 1, 2, 3])
  np.testing.assert_allclose(ngrpo(four), -(0.5**0.5), atol=1e-5)


def test_mc_grpo_drops_the_median():
  rows = workloads.episodes_of([0.9, 0.1, 0.4])
  np.testing.assert_allclose(mc_grpo(rows), [1.66113, -0.996678, 0], atol=1e-5)
  np.testing.assert_allclose(
    mc_grpo(rows, rescale=True), [2.491695, -1.495017, 0], atol=1e-5
  )
  np.testing.assert_array_equal(mc_grpo_kept(rows), [True, True, False])


def test_mc_grpo_of_two_values_is_as_large_as_it_is_let():
  rows = workloads.episodes_of([1.0, 0.0, 0.0])
  np.testing.assert_allclose(mc_grpo(rows, limit=np.inf), [1000, 0, 0])
  np.testing.assert_allclose(mc_grpo(rows, limit=5.0), [5, 0, 0])


def test_exactly_one_episode_of_every_task_is_dropped():
  returns = [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0, 1.0]
  rows = workloads.episodes_of(
    returns, task=[0, 0, 0, 1, 1, 1, 2, 2, 2], lengths=[2] * 9
  )
  dropped = [0, 3, 6]  # of several at the median the first
  for order in np.arange(18), np.random.default_rng(0).permutation(18):
    kept = mc_grpo_kept(jax.tree.map(lambda x, at=order: x[at], rows))
    np.testing.assert_array_equal(kept, ~np.isin(rows.traj[order], dropped))
  # Its advantage was 0.
  np.testing.assert_array_equal(mc_grpo(rows)[np.isin(rows.traj, dropped)], 0)
  padded = rows.replace(mask=rows.mask & (jnp.arange(18) < 6))
  np.testing.assert_array_equal(
    np.flatnonzero(mc_grpo_kept(padded)), [2, 3, 4, 5]
  )


@pytest.mark.parametrize('fn', [robust.ngrpo, robust.mc_grpo])
def test_unknown_counts_are_refused(fn):
  rows = workloads.episodes_of([1.0, 0.0])
  with pytest.raises(ValueError, match="count='tokens'"):
    jax.eval_shape(functools.partial(fn, count='tokens'), rows)
