"""The embedded default: a tiny policy learns small generated ALFWorld games.

Command: `make train`. Cost: 8 minutes on 2 quiet cores. A 2-layer Qwen2.5
of width 64 clones 1,000 expert episodes, then HGPO trains it on fresh games for
250 iterations of 16 x 8 episodes; README.md holds what that reached.

From trials: a policy of this size can read rooms with up to two things that the
task does not ask for; the mean-only advantage
and a learning rate of 3e-4 rose steadily, 5e-4 with the standard deviation
stalled, 1e-3 did not rise at all.
"""

import ml_collections

from experiments.configs import base


def get_config() -> ml_collections.ConfigDict:
  """Returns the experiment."""
  c = base.get_config()
  c.iterations = 250
  c.env.update(template='compact', constrained=True, history=2)
  c.env.alfworld.update(family='easy', max_turns=20, num_distractors=(0, 2))
  c.sampling.update(
    max_reply=8,
    prompt_buckets=(32, 48, 64),
    prefill_buckets=(8, 32),
    prefill_rows=32,
    chunk=8,
    choice_buckets=(16, 32, 64, 128),
  )
  c.rollout.decode_rows = 32  # the CPU decodes while other episodes are played
  c.policy.update(preset='tiny', vocab_size=1024, chat='short')
  c.policy.update(embed_std=0.1, compose_embeddings=True)
  c.policy.update(dtype='float32', cache_dtype='float32')
  c.warmstart.update(games=1000, minibatch_turns=64, learning_rate=3e-3)
  c.algo.hgpo.normalisation = 'mean'
  c.loss.update(old_log_probs='sampler', kl_coef=0.01, entropy_coef=0.0)
  c.optim.update(
    learning_rate=3e-4,
    warmup_steps=10,
    decay_steps=2000,
    minibatch_turns=256,
    b2=0.98,
    row_tokens=192,
    row_replies=32,
    row_turns=8,
    microbatch_rows=4,
  )
  c.mesh.fsdp = 1  # too small to be split
  c.checkpoint.update(every=25)
  c.samples_every = 25
  return c.lock()
