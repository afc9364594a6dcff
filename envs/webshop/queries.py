"""What an instruction gives to search for, as a finite list.

Searches are free text. Where replies are limited to a list, these stand in for
them; the expert takes its own from here too.
"""

from __future__ import annotations

import re

_BOUND = re.compile(r',? and price lower than [\d.]+ dollars')
_LINK = re.compile(r', and |, | with ')
_ASK = re.compile(r'^find me ', re.IGNORECASE)
_ROOM = re.compile(r'[\[\]\s]+')  # brackets would end the action early


def queries(instruction: str) -> tuple[str, ...]:
  """Returns an instruction's words, then each of its clauses, lower case.

  The price is left out: no text of a product says it.
  """
  text = _ROOM.sub(' ', instruction).strip()
  text = _ASK.sub('', _BOUND.sub('', text)).lower()
  clauses = [x.strip() for x in _LINK.split(text) if x.strip()]
  return tuple(dict.fromkeys([' '.join(clauses), *clauses]))
