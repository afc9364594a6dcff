"""Markdown tables of the reports, and the words that their cells share."""

from __future__ import annotations

from collections.abc import Iterable

MISSING, UNREPORTED = 'missing', '-'  # what we have not, what papers have not
NO_DIFFERENCE = 'no difference seen'


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
  """A table of texts, without padding: one number changes one line."""
  head = list(head)
  first, *rest = [f'| {" | ".join(row)} |' for row in (head, *rows)]
  return '\n'.join([first, '|---' * len(head) + '|', *rest])
