"""The embedded default: a tiny policy learns small generated ALFWorld games."""

import ml_collections

from experiments.configs import base


def get_config() -> ml_collections.ConfigDict:
  c = base.get_config()
  c.iterations = 120
  c.env.update(template='compact', constrained=True, history=2)
  c.env.alfworld.update(family='easy', max_turns=20)
  c.sampling.update(
    max_reply=8,
    prompt_buckets=(32, 48, 64),
    batch_buckets=(8, 32),
    choice_buckets=(16, 32, 64),
  )
  c.policy.update(preset='tiny', vocab_size=1024, chat='short')
  c.policy.compose_embeddings = True
  c.warmstart.update(games=1500, epochs=2, learning_rate=2e-3)
  c.loss.update(old_log_probs='sampler', kl_coef=0.01, entropy_coef=0.0)
  c.optim.update(
    learning_rate=3e-4,
    minibatch=512,
    microbatch=32,
    warmup_steps=10,
    b2=0.98,
  )
  c.checkpoint.update(every=20)
  c.samples_every = 20
  return c.lock()
