"""What a purchase is worth: WebShop's formula, part by part.

See Yao et al. 2022, section 3 (https://arxiv.org/abs/2207.01206), and what the
released environment makes of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from envs.webshop.catalog import Product
from envs.webshop.fuzzy import token_set_ratio
from envs.webshop.goals import Goal
from envs.webshop.nouns import Nouns

_ALIKE = 85  # of 100; more than this counts as the same
# WebShop's colours (its `engine/normalize.py`), in the order they are tried.
_COLORS = (
  'alabaster apricot aqua ash asphalt azure banana beige black blue blush '
  'bordeaux bronze brown burgundy camel camo caramel champagne charcoal '
  'cheetah chestnut chocolate christmas coffee cognac copper coral cranberry '
  'cream crystal dark denim eggplant elephant espresso fuchsia gold granite '
  'grape graphite grass gray green grey heather indigo ivory ivy khaki '
  'lavender lemon leopard light lilac lime magenta maroon mauve merlot '
  'midnight mint mocha multicolor mushroom mustard natural navy nude olive '
  'orange peach pewter pink plum purple rainbow red rose royal rust sand '
  'sapphire seashell silver skull slate steel stone stonewash sunflower tan '
  'taupe teal tiger turquoise violet walnut wheat white wine yellow'
)
COLORS = tuple(_COLORS.split())


@dataclasses.dataclass(frozen=True)
class Reward:
  """A purchase's worth, and all that it is made of.

  Attributes:
    total: in [0, 1]; (attribute hits + option hits + price) / (attributes +
      options + 1), times the type factor.
    attributes: share of the goal's attributes that the product has.
    options: share of the goal's options that were chosen; None without any.
    price: whether it costs no more than the bound.
    type_factor: 1 for the kind of product that was asked for, less otherwise.
    query_match: whether both came from the same search.
    category_match: whether they share two categories or more.
    title_score: share of the goal's nouns that are in the product's title.
  """

  total: float
  attributes: float
  options: float | None
  price: bool
  type_factor: float
  query_match: bool
  category_match: bool
  title_score: float


# (chosen values, the goal's options) -> how many of the goal's are met
OptionHits = Callable[[Sequence[str], Sequence[tuple[str, str] | str]], int]


def judge(
  product: Product,
  goal: Goal,
  price: float,
  chosen: Mapping[str, str],
  nouns: Nouns,
  option_hits: OptionHits,
) -> Reward:
  """Judges a purchase.

  Args:
    product: what was bought.
    goal: what was asked for.
    price: dollars that it costs.
    chosen: option name -> value.
    nouns: the tagger.
    option_hits: one of `OPTION_HITS`.
  """
  attributes = attribute_hits(product, goal.attributes)
  options = option_hits(tuple(chosen.values()), goal.options)
  affordable = price <= goal.price_upper
  parts = len(goal.attributes) + len(goal.options) + 1
  query = product.query == goal.query
  category = len(_categories(product) & _categories(goal)) >= 2
  title = title_score(product.title, goal.title, nouns)
  factor = type_factor(query or category, title)
  return Reward(
    total=(attributes + options + affordable) / parts * factor,
    attributes=attributes / len(goal.attributes),
    options=options / len(goal.options) if goal.options else None,
    price=affordable,
    type_factor=factor,
    query_match=query,
    category_match=category,
    title_score=title,
  )


def attribute_hits(product: Product, wanted: Sequence[str]) -> int:
  """How many attributes it has, among its own or word for word in its texts."""
  texts = (
    product.title.lower(),
    ' '.join(product.bullets).lower(),
    product.description.lower(),
  )
  return sum(
    any(token_set_ratio(own, one) > _ALIKE for own in product.attributes)
    or any(one in text for text in texts)
    for one in wanted
  )


def webshop_option_hits(
  chosen: Sequence[str], wanted: Sequence[tuple[str, str] | str]
) -> int:
  """Counts as WebShop does, with its quirk.

  Synthetic goals hold (name, value) pairs, in which the original looks for a
  colour among the two and not in the value's text. So 'sky blue' that was
  chosen becomes 'blue', and the goal's stays "('color', 'sky blue')". Some of
  these goals no purchase can meet.
  """
  values = [_color(value) for value in chosen]
  return _hits(values, [_color(one) for one in wanted])


def corrected_option_hits(
  chosen: Sequence[str], wanted: Sequence[tuple[str, str] | str]
) -> int:
  """Counts values alone, with the colour taken from both sides or none.

  A value that is the goal's own always counts.
  """
  goals = [one if isinstance(one, str) else one[1] for one in wanted]
  return sum(
    goal in chosen or _hits([_color(value) for value in chosen], [_color(goal)])
    for goal in goals
  )


OPTION_HITS: dict[str, OptionHits] = {
  'webshop': webshop_option_hits,
  'corrected': corrected_option_hits,
}


def _hits(chosen: Sequence[str], wanted: Sequence[str]) -> int:
  return sum(
    any(token_set_ratio(value, one) > _ALIKE for value in chosen)
    for one in wanted
  )


def _color(value: tuple[str, str] | str) -> str:
  """The first of the colours that is part of the text, or of the pair."""
  return next((color for color in COLORS if color in value), str(value))


def _categories(of: Product | Goal) -> set[str]:
  return {part.strip() for part in of.product_category.split('›')}


def title_score(title: str, wanted: str, nouns: Nouns) -> float:
  """Share of the wanted title's nouns that the other has; 0.2 without any."""
  asked = nouns(wanted)
  if not asked:
    return 0.2
  return len(set(nouns(title)) & set(asked)) / len(asked)


def type_factor(same_kind: bool, title: float) -> float:
  """1 for the same kind of product; a strange title outweighs that.

  Args:
    same_kind: whether search or categories say so.
    title: the title score.
  """
  if title == 0:
    return 0.0
  if title < 0.1:
    return 0.1
  return 1.0 if same_kind or title > 0.2 else 0.5
