"""The cells of the paper's main tables (https://arxiv.org/abs/2602.22817).

`python -m experiments.train
--config=experiments/configs/paper.py:hgpo-alfworld-1.5b-k2` trains one;
`--plan` says what it will do. A name is <method>-<world>-<size>-k<K>, and for
the ablation of HGPO's weights `-alpha<alpha>`; without it alpha is 1. Every
cell is evaluated with three seeds of sampling at temperature 0.4.

What the sources leave open is settled so: PPO, RLOO and GRPO play 15 turns of
WebShop, as in the runs of GiGPO's paper that their reported numbers come from,
GiGPO and HGPO 30, as in HGPO's paper. Groups are centred over rows, as in the
reference runs. GRPO divides by the standard deviation in both worlds. PPO's
critic values turns, with lambda 1 and the discount of the others; the public
trainers value tokens (`algo.ppo.level='token'`).
"""

import difflib
import itertools
from typing import NamedTuple

import ml_collections

from experiments.configs import alfworld_qwen

METHODS = ('ppo', 'rloo', 'grpo', 'gigpo', 'hgpo')
WORLDS = ('alfworld', 'webshop')
SIZES = ('1.5b', '7b')
HISTORIES = (2, 4)
ALPHAS = (0.0, 2.0)  # of the ablation, beside the paper's 1
TEMPERATURE = 0.4  # of evaluation


class Cell(NamedTuple):
  """One cell.

  Attributes:
    method: of `METHODS`.
    world: of `WORLDS`.
    size: of Qwen2.5-Instruct, of `SIZES`.
    history: K.
    alpha: exponent of HGPO's weights; the others have none.
  """

  method: str
  world: str
  size: str
  history: int
  alpha: float = 1.0

  @property
  def name(self) -> str:
    """The cell's, after `paper.py:`."""
    name = f'{self.method}-{self.world}-{self.size}-k{self.history}'
    return name if self.alpha == 1 else f'{name}-alpha{self.alpha:g}'


def _cells() -> dict[str, Cell]:
  main = [
    Cell(*key) for key in itertools.product(METHODS, WORLDS, SIZES, HISTORIES)
  ]
  ablation = [
    cell._replace(alpha=alpha)
    for cell in main
    if cell.method == 'hgpo'
    for alpha in ALPHAS
  ]
  return {cell.name: cell for cell in (*main, *ablation)}


CELLS = _cells()


def find(name: str) -> Cell:
  """Returns the cell of that name.

  Raises: ValueError that lists the names near it.
  """
  if name in CELLS:
    return CELLS[name]
  near = difflib.get_close_matches(name, CELLS, n=6) or [
    f'<{"|".join(METHODS)}>-<{"|".join(WORLDS)}>-<{"|".join(SIZES)}>-<k2|k4>, '
    f'after a colon: paper.py:{next(reversed(CELLS))}'
  ]
  raise ValueError(f'no cell is called {name!r}; expected {", ".join(near)}.')


def get_config(name: str = '') -> ml_collections.ConfigDict:
  """Returns the experiment of a cell; see `find`."""
  cell = find(name)
  c = alfworld_qwen.get_config()  # the reference settings, for ALFWorld
  c.unlock()
  c.cell = cell.name
  c.env.update(world=cell.world, history=cell.history)
  c.algo.estimator = cell.method
  c.algo.hgpo.alpha = cell.alpha
  c.algo.rloo.count = 'rows'
  c.policy.update(
    checkpoint=f'Qwen/Qwen2.5-{cell.size.upper()}-Instruct', preset=cell.size
  )
  c.optim.microbatch_rows = (
    4 if cell.size == '1.5b' else 8
  )  # fits as many devices
  if cell.world == 'webshop':
    # All of the file; like the original, the first of equal ids.
    c.env.webshop.update(data='files', num_products=0, skip_duplicates=True)
    c.env.webshop.max_turns = 30 if cell.method in ('gigpo', 'hgpo') else 15
    c.algo.gigpo.normalisation = c.algo.hgpo.normalisation = 'mean'
    c.optim.minibatch_turns = 64
    c.eval.splits = ('test',)  # goals 0 to 499
  c.eval.update(games=0, temperatures=(TEMPERATURE,), seeds=(123, 456, 789))
  return c.lock()
