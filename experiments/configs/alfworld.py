"""The paper's ALFWorld setting (HGPO, K = 2) on the released games.

Needs `alfworld-download` and a policy that can read; the sizes are those of
Qwen2.5-1.5B. With `--config.policy.preset=tiny` it is a smoke test.
"""

import ml_collections

from experiments.configs import base


def get_config() -> ml_collections.ConfigDict:
  c = base.get_config()
  c.env.alfworld.update(data='files', max_turns=50)
  c.eval.update(games=0, temperatures=(0.4,))
  return c.lock()
