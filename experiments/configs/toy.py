"""A proof in seconds that learning works: the two-turn guessing world."""

import ml_collections

from experiments.configs import base


def get_config() -> ml_collections.ConfigDict:
  """Returns the experiment."""
  c = base.get_config()
  c.iterations = 80
  c.env.update(world='toy', template='compact', constrained=True)
  c.sampling.update(
    max_reply=3,
    prompt_buckets=(24,),
    prefill_buckets=(64,),
    chunk=3,
    choice_buckets=(4,),
  )
  c.policy.update(preset='tiny', vocab_size=448, chat='short')
  c.policy.update(layers=1, width=32, ff_width=64)
  c.policy.update(dtype='float32', cache_dtype='float32')
  c.rollout.update(groups=8, group_size=8, episodes=64)
  c.warmstart.update(tokenizer_games=12)
  c.loss.update(old_log_probs='sampler', kl_coef=0.0, entropy_coef=0.0)
  c.optim.update(
    learning_rate=3e-3, minibatch_turns=128, microbatch_rows=16, b2=0.98
  )
  c.optim.update(row_tokens=64, row_replies=12, row_turns=4)
  c.eval.update(games=0, splits=('train', 'valid'), temperatures=(1.0,))
  c.mesh.fsdp = 1  # too small to be split
  c.samples_every = 0
  return c.lock()
