"""Every field of an experiment, with its unit, is born here.

An experiment is `base.get_config()` with some fields changed; a mistyped
override fails at start-up.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """The paper's ALFWorld settings where it states them (sec. 5)."""
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.run_dir = ''  # where everything is written; '' means runs/<config's name>
  c.cell = ''  # name of the paper's cell that this is; '' is none of them
  c.iterations = 160  # rollout + update

  c.env = ml_collections.ConfigDict()
  c.env.world = 'alfworld'  # a name in envs/registry.py
  c.env.servers = 0  # server processes; 0 plays in the trainer's process
  c.env.addresses = ()  # 'host:port' of remote servers (envs/README.md)
  c.env.token_file = ''  # holds what they ask for; '' shows nothing
  c.env.ca_file = ''  # PEM certificates to trust; '' connects without TLS
  c.env.timeout = 120.0  # s until a server that does not answer is left
  c.env.patience = 600.0  # s to go on without an answer from any server
  c.env.history = 2  # K: past turns in a prompt, and depth of HGPO's contexts
  c.env.template = 'paper'  # a preset of the world
  c.env.template_file = ''  # JSON file of a template, instead of a preset
  c.env.constrained = False  # decode admissible actions only
  c.env.alfworld = ml_collections.ConfigDict()  # options of that world
  c.env.alfworld.data = 'generated'  # or 'files': released games
  c.env.alfworld.root = ''  # folder that holds json_2.1.1/; '' $ALFWORLD_DATA
  c.env.alfworld.engine = 'fast'  # or 'textworld', the alfworld package's own
  c.env.alfworld.max_turns = 50  # environment turns per episode
  c.env.alfworld.task_types = ()  # names of the six types; () plays all
  c.env.alfworld.family = 'full'  # size of generated rooms: 'easy', 'full'
  c.env.alfworld.num_receptacles = ()  # (least, most); () is the family's
  c.env.alfworld.num_objects = ()  # of the kind asked for, so too
  c.env.alfworld.num_distractors = ()  # other objects, so too
  c.env.alfworld.game_seed = 0  # another seed, other generated games
  c.env.alfworld.shuffle_search = False  # the expert searches in random order
  c.env.webshop = ml_collections.ConfigDict()  # options of that world
  c.env.webshop.data = 'generated'  # or 'files': WebShop's own
  c.env.webshop.products = ''  # path of items_shuffle*.json
  c.env.webshop.attributes = ''  # path of items_ins_v2*.json
  c.env.webshop.human = ''  # path of items_human_ins.json; '' synthetic goals
  c.env.webshop.family = 'full'  # what is generated: 'full', 'easy'
  c.env.webshop.num_products = 300  # generated, or read at most; 0 reads all
  c.env.webshop.skip_duplicates = False  # keep the first of equal ids
  c.env.webshop.catalog_seed = 0  # of products, prices and bounds
  c.env.webshop.goal_seed = 0  # of the one shuffle of goals
  c.env.webshop.max_turns = 15  # environment turns per episode
  c.env.webshop.reward = 'webshop'  # or 'corrected': without its quirk
  c.env.webshop.nouns = 'auto'  # tagger: 'spacy', 'rules'; 'auto' what is there
  c.env.webshop.per_page = 10  # products on a page of results
  c.env.webshop.queries = 'free'  # or 'offered': searches from a list
  c.env.webshop.cache = ''  # folder of packed catalogues; '' packs every time
  c.env.toy = ml_collections.ConfigDict({'num_words': 4})

  c.policy = ml_collections.ConfigDict()
  c.policy.preset = 'tiny'  # a name in hgpo_jax/model/registry.py
  c.policy.layers = 0  # blocks; 0 keeps the preset's
  c.policy.width = 0  # hidden size; 0 keeps the preset's
  c.policy.ff_width = 0  # feed-forward size; 0 keeps the preset's
  c.policy.tokenizer = ''  # Hugging Face folder; '' builds one from env text
  c.policy.vocab_size = 1024  # tokens of a built tokenizer, at most
  c.policy.chat = 'qwen'  # markers of a built tokenizer: 'qwen' or 'short'
  c.policy.embed_std = 0.02  # of random embeddings
  c.policy.compose_embeddings = False  # phrases start as sums of their words
  c.policy.checkpoint = ''  # Hugging Face folder or hub id, instead of preset
  c.policy.dtype = 'bfloat16'  # of activations and matrix products
  c.policy.param_dtype = 'float32'  # of stored params; others need adapters
  c.policy.cache_dtype = 'bfloat16'  # of cached keys and values
  c.policy.remat = 'none'  # what a backward pass keeps: 'none', 'dots', 'full'
  c.policy.attention = 'auto'  # the platform's; a name in policy/attention.py
  c.policy.lora = ml_collections.ConfigDict()  # adapters, trained alone
  c.policy.lora.rank = 0  # 0 trains the whole policy
  c.policy.lora.alpha = 32.0  # their scale is alpha / rank
  c.policy.lora.targets = ()  # names of linear layers; () takes all of them

  c.mesh = ml_collections.ConfigDict()  # devices along each axis
  c.mesh.data = 1  # rows; params are copied
  c.mesh.fsdp = -1  # rows and params; -1 takes what is left
  c.mesh.tensor = 1  # heads; must divide the query heads
  c.mesh.device_gib = 0.0  # memory of a device; 0 asks it

  c.sampling = ml_collections.ConfigDict()
  c.sampling.temperature = 1.0
  c.sampling.top_k = 0  # 0 is off
  c.sampling.top_p = 1.0  # 1 is off
  c.sampling.max_reply = 512  # tokens
  c.sampling.prompt_buckets = (512, 1024, 2048, 4096)  # tokens
  c.sampling.prefill_buckets = (4, 16)  # prompts read at once
  c.sampling.prefill_rows = 8  # that wait, before others are interrupted
  c.sampling.chunk = 16  # tokens per row between two looks at the rows
  c.sampling.choice_buckets = (32, 64, 128)  # allowed replies of a row

  c.rollout = ml_collections.ConfigDict()
  c.rollout.groups = 16  # tasks per iteration
  c.rollout.max_groups = 0  # play up to so many, until `groups` of them hold
  # episodes of different rewards, and learn from these; 0 learns from all
  c.rollout.group_size = 8  # episodes per task
  c.rollout.rows = 128  # episodes played at once
  c.rollout.slots = 0  # of them decoding together; 0 is all
  c.rollout.workers = 0  # threads that call environments; 0 calls them in turn
  c.rollout.lockstep = False  # all episodes wait for each other in every turn

  c.algo = ml_collections.ConfigDict()
  c.algo.estimator = 'hgpo'  # a name in hgpo_jax/advantages
  c.algo.gamma = 0.95  # discount per turn
  c.algo.reward = 'success'  # 1 for a won episode; 'world': the world's own
  c.algo.reward_scale = 10.0  # rewards are multiplied by this
  c.algo.invalid_penalty = 0.1  # reward units, on a malformed reply's own row
  c.algo.shuffle_advantages = False  # the control: right sizes, wrong rows
  c.algo.advantage_sign = 1.0  # -1 unlearns; for tests
  # Options of each estimator; its function says what they do. HGPO's depth is
  # env.history.
  c.algo.hgpo = ml_collections.ConfigDict()
  c.algo.hgpo.alpha = 1.0
  c.algo.hgpo.weighting = 'released'  # or 'paper'
  c.algo.hgpo.normalisation = 'mean_std'  # or 'mean'
  c.algo.hgpo.skip_zero = False
  c.algo.hgpo.base_group = False
  c.algo.hgpo.contexts = 'states'  # or 'states_actions'
  c.algo.hgpo_shrink = ml_collections.ConfigDict()
  c.algo.hgpo_shrink.contexts = 'states'  # or 'states_actions'
  c.algo.hgpo_shrink.normalisation = 'mean_std'  # or 'mean'
  c.algo.turn_index = ml_collections.ConfigDict()
  c.algo.turn_index.normalisation = 'mean_std'  # or 'mean'
  c.algo.turn_index.count = 'trajectories'  # or 'rows'
  c.algo.turn_index.singleton = 'zero'  # or 'raw', as released
  c.algo.salt = ml_collections.ConfigDict()
  c.algo.salt.normalisation = 'mean_std'  # or 'mean'
  c.algo.salt.count = 'trajectories'  # or 'rows'
  c.algo.gigpo = ml_collections.ConfigDict()
  c.algo.gigpo.weight = 1.0  # of the step term
  c.algo.gigpo.normalisation = 'mean_std'  # or 'mean'
  c.algo.gigpo.similarity = 1.0  # observations so alike are one; 1 is equality
  c.algo.grpo = ml_collections.ConfigDict()
  c.algo.grpo.normalisation = 'mean_std'  # or 'mean'
  c.algo.grpo.count = 'rows'  # or 'trajectories'
  c.algo.ppo = ml_collections.ConfigDict()  # with a critic; see train/critic.py
  # What has a value, 'turn' or 'token', is also what gamma and lam count: with
  # 'token' and long replies they belong near 1.
  c.algo.ppo.level = 'turn'
  c.algo.ppo.lam = 1.0  # lambda of the generalised advantage estimation
  c.algo.ppo.value_clip = 0.5  # reward units a value may move per iteration
  # What stops at the step limit has failed: that is the success that is
  # reported, and what the other estimators' returns say. True lets it go on.
  c.algo.ppo.bootstrap_truncated = False
  c.algo.ppo.critic_learning_rate = 1e-5  # else as in optim
  c.algo.ppo.critic_warmup = 0  # critic updates before the policy moves
  c.algo.rloo = ml_collections.ConfigDict()
  c.algo.rloo.count = 'trajectories'  # or 'rows'
  c.algo.dr_grpo = ml_collections.ConfigDict()
  c.algo.dr_grpo.count = 'trajectories'  # or 'rows'
  # For rows that name their agent, which no world here has: refused at start.
  c.algo.dr_mas = ml_collections.ConfigDict()
  c.algo.dr_mas.normalisation = 'mean_std'  # or 'mean'
  c.algo.dr_mas.count = 'rows'  # or 'trajectories'
  c.algo.reinforce_pp = ml_collections.ConfigDict()
  c.algo.reinforce_pp.std = 'sample'  # or 'population'
  c.algo.reinforce_pp_baseline = ml_collections.ConfigDict()
  c.algo.reinforce_pp_baseline.count = 'rows'  # or 'trajectories'
  c.algo.lite_ppo = ml_collections.ConfigDict()
  c.algo.lite_ppo.count = 'trajectories'  # or 'rows'
  c.algo.gdpo = ml_collections.ConfigDict()
  c.algo.gdpo.weights = ()  # one per score; () is 1 for each
  c.algo.gdpo.count = 'trajectories'  # or 'rows'
  # max_return is that of a success, after reward_scale.
  c.algo.ngrpo = ml_collections.ConfigDict()
  c.algo.ngrpo.max_return = 10.0  # reward units
  c.algo.ngrpo.count = 'trajectories'  # or 'rows'
  c.algo.mc_grpo = ml_collections.ConfigDict()
  c.algo.mc_grpo.rescale = False
  c.algo.mc_grpo.limit = 10.0  # largest absolute advantage, ours; inf is off
  c.algo.mc_grpo.count = 'trajectories'  # or 'rows'
  c.algo.bnpo = ml_collections.ConfigDict()
  c.algo.bnpo.max_return = 10.0  # reward units
  c.algo.bnpo.count = 'trajectories'  # or 'rows'
  c.algo.a_grae = ml_collections.ConfigDict()
  c.algo.a_grae.alpha = 1.0  # success rate that gives successes full weight
  c.algo.a_grae.max_return = 10.0  # reward units
  c.algo.a_grae.count = 'trajectories'  # or 'rows'
  c.algo.copo = ml_collections.ConfigDict()
  c.algo.copo.gain = 5.0  # per bit
  c.algo.copo.offset = 1.0  # bits
  c.algo.copo.weighting = 'soft'  # or 'soft_with_zero'
  c.algo.copo.count = 'trajectories'  # or 'rows'

  c.loss = ml_collections.ConfigDict()
  c.loss.surrogate = 'clipped'  # a name in hgpo_jax/losses
  # Of 'clipped'. DAPO: 0.2, 0.28 and 10.
  c.loss.clip_low = 0.2  # the ratio may fall by so much
  c.loss.clip_high = 0.2  # and rise
  c.loss.dual_clip = 3.0  # bound where the advantage is negative
  # Options of each other surrogate; its function says what they do, and with
  # which aggregation it is meant.
  c.loss.gspo = ml_collections.ConfigDict()
  c.loss.gspo.clip_low = 3e-4  # of the reply's mean ratio
  c.loss.gspo.clip_high = 4e-4
  c.loss.gmpo = ml_collections.ConfigDict()
  c.loss.gmpo.clip_low = 0.4  # nats
  c.loss.gmpo.clip_high = 0.4
  c.loss.kpo = ml_collections.ConfigDict()
  c.loss.kpo.q = 1e-6  # step variance over noise variance
  c.loss.kpo.clip_low = 3e-4  # of the filtered ratio
  c.loss.kpo.clip_high = 4e-4
  c.loss.dcpo = ml_collections.ConfigDict()
  c.loss.dcpo.clip_low = 0.2  # of q (ratio - 1) ratio, q the old probability
  c.loss.dcpo.clip_high = 0.28
  c.loss.dcpo.dual_clip = 10.0
  c.loss.cispo = ml_collections.ConfigDict()
  c.loss.cispo.clip_low = 1.0  # of the weight; 1 is off
  c.loss.cispo.clip_high = 4.0
  c.loss.sapo = ml_collections.ConfigDict()
  c.loss.sapo.tau_positive = 1.0  # steepness of the gate
  c.loss.sapo.tau_negative = 1.05
  c.loss.kl = 'k3'  # a name in hgpo_jax/losses/kl.py
  c.loss.kl_coef = 0.01
  c.loss.entropy_coef = 0.001
  c.loss.aggregation = (
    'token-mean'  # 'seq-mean-token-mean' ...: a name in hgpo_jax/losses
  )
  c.loss.old_log_probs = 'score'  # 'sampler' trusts the sampler's own

  c.optim = ml_collections.ConfigDict()
  c.optim.learning_rate = 1e-6
  c.optim.warmup_steps = 0  # updates
  c.optim.decay_steps = 0  # updates until a cosine ends; 0 stays constant
  c.optim.weight_decay = 0.01
  c.optim.clip_norm = 1.0
  c.optim.b1 = 0.9
  c.optim.b2 = 0.999
  c.optim.moments_dtype = 'float32'  # of Adam's moments, or 'bfloat16'
  c.optim.epochs = 1  # passes over the turns of an iteration
  c.optim.minibatch = 256  # turns per optimiser step, at most
  # Turns are packed into rows with three capacities.
  c.optim.row_tokens = 4608  # prompts and replies
  c.optim.row_replies = 1024  # reply tokens, at least sampling.max_reply
  c.optim.row_turns = 16  # turns
  c.optim.microbatch = 1  # packed rows per gradient
  c.optim.logits_chunk = 512  # reply tokens of a row unembedded at once

  c.warmstart = ml_collections.ConfigDict()
  c.warmstart.games = 0  # expert episodes to clone; 0 skips it
  c.warmstart.tokenizer_games = 256  # at least so many for a built tokenizer
  c.warmstart.epochs = 1
  c.warmstart.learning_rate = 1e-3
  c.warmstart.minibatch = 256  # rows
  c.warmstart.explore = 1.0  # how often the expert looks before it knows
  c.warmstart.noise = 0.0  # share of random moves played (not cloned)

  c.eval = ml_collections.ConfigDict()
  c.eval.every = 0  # iterations between evaluations; 0 only at the end
  c.eval.games = 512  # per split, temperature and seed; 0 plays all, -1
  # skips evaluation
  c.eval.splits = ('valid_seen', 'valid_unseen')
  c.eval.temperatures = (1.0, 0.4)
  c.eval.seeds = (123,)  # of sampling; each plays all games once

  c.checkpoint = ml_collections.ConfigDict()
  c.checkpoint.every = 10  # iterations
  c.checkpoint.keep = 3  # newest ones kept
  c.samples_every = 10  # iterations between written sample episodes; 0 is off
  return c.lock()
