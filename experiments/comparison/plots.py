"""Learning curves, one small plot per method."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from scipy import stats

from experiments.comparison.results import Runs
from experiments.folders import RunFolder

matplotlib.use('agg')
from matplotlib import pyplot  # noqa: E402

_COLUMNS, _WINDOW = 4, 10  # plots side by side; iterations that are averaged


def window(iterations: int) -> int:
  """Iterations that a point of a curve averages."""
  return min(_WINDOW, iterations)


def curves(
  path: pathlib.Path,
  labels: Mapping[str, str],
  runs: Runs,
  reference: str,
) -> None:
  """Draws success in training over episodes: each seed, their mean, its band.

  Args:
    path: PNG to write.
    labels: method -> title, in order.
    runs: method -> seed -> run.
    reference: the method whose mean stands in all plots, if it has runs.
  """
  rows = -(-len(labels) // _COLUMNS)
  figure, axes = pyplot.subplots(
    rows,
    _COLUMNS,
    figsize=(3 * _COLUMNS, 2.5 * rows + 0.3),
    sharex=True,
    sharey=True,
    squeeze=False,
    layout='constrained',
  )
  common = _smoothed(runs[reference]) if reference in runs else None
  for axis, (method, label) in zip(axes.flat, labels.items(), strict=False):
    axis.set_title(label, fontsize=10)
    axis.grid(alpha=0.3)
    if common and method != reference:
      episodes, seeds = common
      axis.plot(episodes, seeds.mean(0), color='0.6', linestyle='--')
    if method in runs:
      _curve(axis, *_smoothed(runs[method]))
    else:
      axis.text(0.5, 0.5, 'missing', ha='center', transform=axis.transAxes)
  for axis in axes.flat[len(labels) :]:
    axis.axis('off')
  figure.supxlabel('episodes')
  figure.supylabel('success in training, %')
  figure.savefig(path, dpi=110)
  pyplot.close(figure)


def _curve(axis: Axes, episodes: np.ndarray, seeds: np.ndarray) -> None:
  axis.plot(episodes, seeds.T, color='tab:blue', alpha=0.35, linewidth=0.7)
  mean, half = band(seeds)
  axis.plot(episodes, mean, color='tab:blue')
  axis.fill_between(
    episodes, mean - half, mean + half, color='tab:blue', alpha=0.15, lw=0
  )


def _smoothed(runs: Mapping[int, RunFolder]) -> tuple[np.ndarray, np.ndarray]:
  """Episodes `[T']` at the middle of each window, and percent `[S, T']`."""
  success = np.stack([run.success for run in runs.values()])
  per_iteration = next(iter(runs.values())).episodes
  width = window(success.shape[1])
  seeds = 100 * smooth(success, width)
  middles = np.arange(seeds.shape[1]) + width / 2
  return per_iteration * middles, seeds


def smooth(values: np.ndarray, width: int) -> np.ndarray:
  """Means of `width` neighbours: `[..., T]` -> `[..., T - width + 1]`."""
  sums = np.cumsum(np.insert(values, 0, 0.0, axis=-1), axis=-1)
  return (sums[..., width:] - sums[..., :-width]) / width


def band(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean over seeds, and half the width of its pointwise 95 % interval.

  Student's, with S - 1 degrees of freedom; 0 for a single seed.

  Args:
    curves: `[S, T]`.

  Returns: two `[T]`.
  """
  seeds = len(curves)
  mean = curves.mean(0)
  if seeds == 1:
    return mean, np.zeros_like(mean)
  t = stats.t.ppf(0.975, seeds - 1)
  return mean, t * curves.std(0, ddof=1) / seeds**0.5
