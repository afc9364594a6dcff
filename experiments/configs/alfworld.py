"""The paper's rollout and loss settings for ALFWorld (HGPO, K = 2).

`python -m experiments.train --config=experiments/configs/alfworld.py` plays the
released games under $ALFWORLD_DATA with the paper's words. The policy is the
tiny size from random init, so this shows that the setting runs, not what the
paper's Qwen2.5 policies reach.
"""

import ml_collections

from experiments.configs import base


def get_config() -> ml_collections.ConfigDict:
  """Returns the experiment."""
  c = base.get_config()
  c.env.alfworld.update(data='files', max_turns=50)
  c.eval.update(games=0, temperatures=(0.4,))
  return c.lock()
