"""The embedded WebShop: a tiny policy learns to shop in a generated catalogue.

Command: `make train CONFIG=webshop_tiny`. Cost: four minutes on 2 cores. A
2-layer Qwen2.5 of width 64 clones 2,000 expert episodes, then HGPO trains it on
the train goals for 110 iterations of 16 x 8 episodes; goals 0 to 499 of the
shuffle are kept for the evaluation, which plays 256 of them. README.md holds
what that reached; success was still rising.

What was learned on the way: with 800 episodes or fewer the warm start wins too
rarely for the groups to say anything, with 3,000 it wins half of the time; a
learning rate of 5e-4 rose twice as fast as 2e-4, and 1e-3 no faster.
"""

import ml_collections

from experiments.configs import base


def get_config() -> ml_collections.ConfigDict:
  """Returns the experiment."""
  c = base.get_config()
  c.iterations = 110
  c.env.update(world='webshop', template='compact', constrained=True, history=2)
  c.env.webshop.update(
    family='easy', per_page=4, queries='offered', max_turns=10, nouns='rules'
  )
  c.sampling.update(
    max_reply=24,
    prompt_buckets=(32, 64, 96),
    prefill_buckets=(8, 32),
    prefill_rows=32,
    chunk=8,
    choice_buckets=(8, 16),
  )
  c.rollout.decode_rows = 32  # the CPU decodes while other episodes are played
  c.policy.update(preset='tiny', vocab_size=1280, chat='short')
  c.policy.update(embed_std=0.1, compose_embeddings=True)
  c.policy.update(dtype='float32', cache_dtype='float32')
  c.warmstart.update(games=2000, minibatch_turns=64, learning_rate=3e-3)
  c.algo.hgpo.normalisation = 'mean'
  c.loss.update(old_log_probs='sampler', kl_coef=0.01, entropy_coef=0.0)
  c.optim.update(
    learning_rate=5e-4,
    warmup_steps=10,
    decay_steps=1320,
    minibatch_turns=64,
    b2=0.98,
    row_tokens=256,
    row_replies=96,
    row_turns=12,
    microbatch_rows=5,
  )
  c.eval.update(games=256, splits=('test',))
  c.mesh.fsdp = 1  # too small to be split
  c.checkpoint.update(every=25)
  c.samples_every = 25
  return c.lock()
