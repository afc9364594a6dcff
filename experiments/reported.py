"""What papers report, as data with their source; numbers in percent.

What is not listed here is None, never a guess.
"""

from __future__ import annotations

from typing import NamedTuple

from envs.alfworld.game import TASK_TYPES

# Type of task -> its column in the papers' tables.
COLUMNS: dict[str, str] = dict(
  zip(
    TASK_TYPES,
    ('Pick', 'Look', 'Clean', 'Heat', 'Cool', 'Pick2'),
    strict=True,
  )
)

_GIGPO = "GiGPO's paper, 3 seeds (https://arxiv.org/abs/2505.10978)"
_HGPO = "a summary of HGPO's paper (https://arxiv.org/abs/2602.22817)"
_OTHER = "another summary of HGPO's paper"


class Figure(NamedTuple):
  """A mean and, where it is reported, the standard deviation over seeds."""

  mean: float
  std: float | None = None


class Row(NamedTuple):
  """What one source says of one method.

  Attributes:
    source: where it was read.
    method: as cells name it, perhaps with a variant behind a comma.
    size: of Qwen2.5.
    history: K; None where the source was not found to say it.
    seen: success on ALFWorld's games, in distribution.
    unseen: the same, out of distribution.
    alfworld: the same, where the source was not found to say which.
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


def _hgpo(method: str, size: str, history: int, *figures: float | None) -> Row:
  found = (None if x is None else Figure(x) for x in figures)
  seen, unseen, score, success = found
  return Row(_HGPO, method, size, history, seen, unseen, None, score, success)


def _other(
  method: str, size: str, history: int, seen: float, unseen: float
) -> Row:
  return Row(_OTHER, method, size, history, Figure(seen), Figure(unseen))


def _gigpo(
  method: str,
  size: str,
  alfworld: Figure,
  success: Figure | None,
  score: Figure | None = None,
) -> Row:
  return Row(
    _GIGPO,
    method,
    size,
    None,
    alfworld=alfworld,
    score=score,
    success=success,
  )


ROWS = (
  # In distribution, out of distribution, score, success.
  _hgpo('gigpo', '1.5b', 2, 90.16, 84.76, None, None),
  _hgpo('hgpo', '1.5b', 2, 92.77, 90.16, None, None),
  _hgpo('gigpo', '1.5b', 4, 93.29, 91.53, 86.80, 73.24),
  _hgpo('hgpo', '1.5b', 4, 94.85, 92.12, 90.64, 78.12),
  _hgpo('gigpo', '7b', 2, None, None, 88.93, 77.60),
  _hgpo('hgpo', '7b', 2, None, None, 88.96, 78.51),
  _hgpo('gigpo', '7b', 4, 95.63, 95.18, 88.44, 72.50),
  _hgpo('hgpo', '7b', 4, 95.96, 94.87, 90.49, 79.29),
  _other('gigpo', '7b', 4, 95.43, 92.79),
  _other('hgpo', '7b', 4, 95.96, 93.75),
  # ALFWorld, success, score.
  _gigpo('ppo', '1.5b', Figure(54.4, 3.1), Figure(51.5, 2.9)),
  _gigpo('rloo', '1.5b', Figure(69.7, 2.5), Figure(52.1, 6.7)),
  _gigpo('grpo', '1.5b', Figure(72.8, 3.6), Figure(56.8, 3.8)),
  _gigpo('gigpo, with std', '1.5b', Figure(86.7, 1.7), Figure(65.0, 3.2)),
  _gigpo('gigpo, without std', '1.5b', Figure(86.1, 4.7), Figure(67.4, 4.5)),
  _gigpo('ppo', '7b', Figure(80.4), None),
  _gigpo('grpo', '7b', Figure(77.6, 5.2), Figure(66.1, 3.7), Figure(79.3, 2.8)),
  _gigpo(
    'gigpo, with std',
    '7b',
    Figure(90.8, 1.3),
    Figure(72.8, 3.2),
    Figure(84.4, 2.9),
  ),
  _gigpo(
    'gigpo, without std',
    '7b',
    Figure(90.2, 2.3),
    Figure(75.2, 3.8),
    Figure(86.2, 2.6),
  ),
)


def find(cell: tuple[str, str, int], measure: str) -> list[Row] | None:
  """Returns the rows that report a measure, None where none does.

  Args:
    cell: method, size and K.
    measure: a field of `Row`, such as 'seen'.
  """
  found = [row for row in ROWS if row[1:4] == cell and getattr(row, measure)]
  return found or None
