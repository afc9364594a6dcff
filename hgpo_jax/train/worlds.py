"""Opens the world that a config names; the only file that imports `envs`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

from envs import agent, inline, registry
from envs.base import EnvError, Task
from hgpo_jax.config import Config
from hgpo_jax.multihost import exchange
from hgpo_jax.rollout.environments import Environments

# What can end a rollout: an error of an environment here, an error in another
# process, SIGTERM. The training state is whole after each of them.
PLAY_ERRORS = (EnvError, exchange.PlayFailed, exchange.Preempted)


@contextlib.contextmanager
def open_environments(
  config: Config, check: Callable[[], None] = lambda: None
) -> Iterator[Environments]:
  """Opens the environments, tasks and words of the config's world.

  Args:
    config: the experiment.
    check: called while episodes are played and while servers are waited for;
      may raise.
  """
  env = config.env
  options = env.chosen
  world = registry.make_world(env.world, options)
  template = agent.make_template(
    env.template, world.templates, env.template_file
  )
  environments = Environments(
    world=world,
    make_task=Task,
    agent=agent.AgentLayer(template, env.history, env.constrained),
    words=dataclasses.asdict(template),
    step_envs=inline.InlineClient(world.make_env),
    check=check,
  )
  if not env.addresses and not env.servers:
    yield environments
    return
  from envs.serving import client, local  # a run without servers loads no gRPC

  with contextlib.ExitStack() as stack:
    if env.addresses:
      served = client.GrpcClient(
        env.addresses,
        env.world,
        options,
        client.read_credentials(env.token_file, env.ca_file),
        timeout=env.timeout,
        patience=env.patience,
        check=check,
      )
      stack.enter_context(served)
    else:
      served = stack.enter_context(
        local.open_client(
          env.world,
          options,
          env.servers,
          timeout=env.timeout,
          patience=env.patience,
          check=check,
        )
      )
    yield dataclasses.replace(
      environments, step_envs=served, counts=lambda: vars(served.counts)
    )
