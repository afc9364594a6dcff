"""What papers report, as data with their source; numbers in percent.

What is not listed here is None, never a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from envs.alfworld.game import TASK_TYPES

# Type of task -> its column in the papers' tables.
COLUMNS: dict[str, str] = dict(
  zip(
    TASK_TYPES,
    ('Pick', 'Look', 'Clean', 'Heat', 'Cool', 'Pick2'),
    strict=True,
  )
)


class Figure(NamedTuple):
  """A mean and, where it is known, the standard deviation over seeds.

  In an f-string the format is that of each number: `f'{figure:.1f}'`.
  """

  mean: float
  std: float | None = None

  def __format__(self, spec: str) -> str:
    std = '' if self.std is None else f' ± {self.std:{spec}}'
    return f'{self.mean:{spec}}{std}'


def figure_of(values: Sequence[float] | np.ndarray) -> Figure:
  """The mean of `[S]`, and the sample deviation where there are several."""
  std = float(np.std(values, ddof=1)) if len(values) > 1 else None
  return Figure(float(np.mean(values)), std)


class Row(NamedTuple):
  """What one source reports of one method.

  Attributes:
    source: where it was read.
    method: as cells name it, perhaps with a variant behind a comma.
    size: of Qwen2.5.
    history: K; None where the source does not say it.
    seen: success on ALFWorld's games, in distribution.
    unseen: the same, out of distribution.
    alfworld: the same, where the source does not say which.
    score: WebShop's own, of 100.
    success: share of WebShop's goals with the full score.
  """

  source: str
  method: str
  size: str
  history: int | None
  seen: Figure | None = None
  unseen: Figure | None = None
  alfworld: Figure | None = None
  score: Figure | None = None
  success: Figure | None = None


def _of_source(source: str, fields: str, *rows: tuple[Any, ...]) -> list[Row]:
  """Rows of method, size, K and then figures: a mean, or a mean and spread."""
  result = []
  for method, size, history, *figures in rows:
    named = {
      field: Figure(*value) if isinstance(value, tuple) else Figure(value)
      for field, value in zip(fields.split(), figures, strict=False)
      if value is not None
    }
    result.append(Row(source, method, size, history, **named))
  return result


ROWS = (
  *_of_source(
    "a summary of HGPO's paper (https://arxiv.org/abs/2602.22817)",
    'seen unseen score success',
    ('gigpo', '1.5b', 2, 90.16, 84.76),
    ('hgpo', '1.5b', 2, 92.77, 90.16),
    ('gigpo', '1.5b', 4, 93.29, 91.53, 86.80, 73.24),
    ('hgpo', '1.5b', 4, 94.85, 92.12, 90.64, 78.12),
    ('gigpo', '7b', 2, None, None, 88.93, 77.60),
    ('hgpo', '7b', 2, None, None, 88.96, 78.51),
    ('gigpo', '7b', 4, 95.63, 95.18, 88.44, 72.50),
    ('hgpo', '7b', 4, 95.96, 94.87, 90.49, 79.29),
  ),
  *_of_source(
    "another summary of HGPO's paper",
    'seen unseen',
    ('gigpo', '7b', 4, 95.43, 92.79),
    ('hgpo', '7b', 4, 95.96, 93.75),
  ),
  *_of_source(
    "GiGPO's paper, 3 seeds (https://arxiv.org/abs/2505.10978)",
    'alfworld success score',
    ('ppo', '1.5b', None, (54.4, 3.1), (51.5, 2.9)),
    ('rloo', '1.5b', None, (69.7, 2.5), (52.1, 6.7)),
    ('grpo', '1.5b', None, (72.8, 3.6), (56.8, 3.8)),
    ('gigpo, with std', '1.5b', None, (86.7, 1.7), (65.0, 3.2)),
    ('gigpo, without std', '1.5b', None, (86.1, 4.7), (67.4, 4.5)),
    ('ppo', '7b', None, 80.4),
    ('grpo', '7b', None, (77.6, 5.2), (66.1, 3.7), (79.3, 2.8)),
    ('gigpo, with std', '7b', None, (90.8, 1.3), (72.8, 3.2), (84.4, 2.9)),
    ('gigpo, without std', '7b', None, (90.2, 2.3), (75.2, 3.8), (86.2, 2.6)),
  ),
)


def find(cell: tuple[str, str, int], measure: str) -> list[Row]:
  """Returns the rows that report a measure.

  Args:
    cell: method, size and K.
    measure: a field of `Row`, such as 'seen'.
  """
  return [row for row in ROWS if row[1:4] == cell and getattr(row, measure)]
