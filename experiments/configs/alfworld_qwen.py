"""The paper's ALFWorld cell with Qwen2.5-1.5B-Instruct (HGPO, K = 2).

`python -m experiments.train --config=experiments/configs/alfworld_qwen.py
--config.policy.checkpoint=<folder>` trains a downloaded checkpoint on the
released games under $ALFWORLD_DATA, for one GPU of 141 GB. N devices share the
params with `--config.optim.microbatch_rows=N`. What it needs is printed before
it is allocated.
"""

import ml_collections

from experiments.configs import alfworld


def get_config() -> ml_collections.ConfigDict:
  """Returns the experiment."""
  c = alfworld.get_config()
  c.unlock()
  c.policy.update(
    checkpoint='Qwen/Qwen2.5-1.5B-Instruct',
    remat='full',
  )
  c.env.servers = 8
  c.rollout.workers = 16
  return c.lock()
