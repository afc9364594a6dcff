"""Which words of a title are nouns: a tagger is a function from text to words.

WebShop tags with spaCy. Its models are no Python packages of an index, so that
a small rule of ours stands in where none is installed; the title score, and
with it the type factor of some rewards, then differ a little.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable

from envs import options
from envs.base import BadOptions

Nouns = Callable[[str], list[str]]

NOUNS = ('auto', 'spacy', 'rules')

MODEL = 'en_core_web_sm'
_TOKEN = re.compile(r'\w+|[^\w\s]')
# Closed word classes, and what else titles are full of that is no noun.
_LISTED = (
  'a an the this that these those each every all any both no some such other '
  'i you he she it we they me him her us them my your his its our their who '
  'and or but nor so yet if than as at by for from in into of off on onto out '
  'over per to under up upon with within without between before after during '
  'is are was were be been being am do does did has have had can could will '
  'would shall should may might must not very more most less least much many '
  'too also only just even here there when where while how why what which '
  'new old best better good great nice perfect high low big small large '
  'little long short wide slim thick thin heavy light soft hard cute pretty '
  'easy safe free full black white red blue green yellow pink purple brown '
  'grey gray beige natural organic portable wireless waterproof adjustable '
  'compatible electric modern vintage classic casual fashionable comfortable '
  'durable lightweight fits fit made use used includes including set'
)
_NO_NOUNS = frozenset(_LISTED.split())
_TAGS = ('NOUN', 'PROPN')  # spaCy's
_ADJECTIVE = ('able', 'ible', 'ful', 'less', 'ous', 'ly')


def rule_nouns(text: str) -> list[str]:
  """Every alphabetic word that neither the list nor its ending rules out."""
  return [
    token
    for token in _TOKEN.findall(text.lower())
    if token.isalpha()
    and token not in _NO_NOUNS
    and not token.endswith(_ADJECTIVE)
  ]


def spacy_nouns(model: str = MODEL) -> Nouns:
  """Returns WebShop's own rule: nouns and proper nouns of a spaCy model."""
  import spacy

  tag = spacy.load(model)

  @functools.lru_cache(maxsize=4096)  # titles come again and again
  def nouns(text: str) -> tuple[str, ...]:
    return tuple(
      token.text.lower() for token in tag(text) if token.pos_ in _TAGS
    )

  return lambda text: list(nouns(text))


def make_nouns(name: str) -> Nouns:
  """Returns a tagger by name: 'spacy', 'rules', or 'auto' for what is there."""
  options.one_of(NOUNS, nouns=name)
  installed = importlib.util.find_spec(MODEL) is not None
  if name == 'rules' or (name == 'auto' and not installed):
    return rule_nouns
  if not installed:
    raise BadOptions(
      f'nouns is {name!r}, but {MODEL} is not installed: python -m spacy '
      f"download {MODEL}, or take 'rules'."
    )
  return spacy_nouns()
