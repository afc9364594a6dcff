"""Trajectories -> tables, scalars and readable text."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from hgpo_jax import types


def summarise(
  trajectories: Sequence[types.Trajectory], kind: Callable[[Hashable], str]
) -> dict[str, Any]:
  """Success and other means of evaluation games.

  Args:
    trajectories: one per game.
    kind: task -> the row of the table that it belongs to.

  Returns: success (share of games won), task_score (mean of the world's own
    reward, which may be the success), reward_parts (see the function), games,
    turns (mean), invalid (share of replies that were malformed), by_type
    (success and games of each kind), and outcomes: '1' or '0' for each game in
    turn, so that runs can be compared in pairs.
  """
  turns = [turn for t in trajectories for turn in t.turns]
  rows: dict[str, list[bool]] = {}
  for trajectory in trajectories:
    rows.setdefault(kind(trajectory.task), []).append(trajectory.won)
  return {
    'success': round(_mean([t.won for t in trajectories]), 4),
    'task_score': round(task_score(trajectories), 4),
    'reward_parts': {
      name: round(mean, 4) for name, mean in reward_parts(trajectories).items()
    },
    'games': len(trajectories),
    'turns': round(len(turns) / max(len(trajectories), 1), 2),
    'invalid': round(_mean([not turn.valid for turn in turns]), 4),
    'by_type': {
      name: {'success': round(_mean(won), 4), 'games': len(won)}
      for name, won in sorted(rows.items())
    },
    'outcomes': ''.join(str(int(t.won)) for t in trajectories),
  }


def task_score(trajectories: Sequence[types.Trajectory]) -> float:
  """Mean over episodes of the sum of the world's rewards, in its units."""
  return _mean([t.total_reward for t in trajectories])


def reward_parts(
  trajectories: Sequence[types.Trajectory],
) -> dict[str, float]:
  """Means of the parts of rewards, in the order of first appearance.

  Each is over the episodes that have the part: in WebShop, those that ended
  with a purchase, and for `options` only those whose goal asks for some.
  """
  values: dict[str, list[float]] = {}
  for trajectory in trajectories:
    for name, value in trajectory.parts.items():
      values.setdefault(name, []).append(value)
  return {name: _mean(of_name) for name, of_name in values.items()}


def by_seed(
  played: Mapping[int, Sequence[types.Trajectory]],
  kind: Callable[[Hashable], str],
) -> dict[str, Any]:
  """Summarises evaluation games by the seed of sampling.

  Args:
    played: seed -> one trajectory per game; the games are the same.
    kind: as in `summarise`.

  Returns: `summarise` of all of them, and `by_seed`, seed -> that of its own.
  """
  pooled = [t for trajectories in played.values() for t in trajectories]
  return {
    **summarise(pooled, kind),
    'by_seed': {str(s): summarise(ts, kind) for s, ts in played.items()},
  }


def table(result: Mapping[str, Any]) -> str:
  """Writes one result of `summarise` as lines for people."""
  lines = [f'{"type":<34}{"success":>9}{"games":>7}']
  for name, row in (*result['by_type'].items(), ('all', result)):
    lines.append(f'{name:<34}{row["success"]:>9.3f}{row["games"]:>7}')
  lines.append(
    f'task score {result["task_score"]:.3f}, mean turns '
    f'{result["turns"]:.1f}, invalid replies {100 * result["invalid"]:.1f} %'
  )
  if parts := result['reward_parts']:
    means = ', '.join(f'{name} {mean:.3f}' for name, mean in parts.items())
    lines.append(f'parts of the reward: {means}')
  return '\n'.join(lines)


def comparison(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
  """Writes name -> split -> temperature -> result as one line per name.

  The task scores follow where they differ from the successes.
  """
  text = _columns(results, 'success')
  all_results = [
    x for row in results.values() for y in row.values() for x in y.values()
  ]
  if any(x['task_score'] != x['success'] for x in all_results):
    text += '\n' + _columns(results, 'task_score')
  return text


def _columns(
  results: Mapping[str, Mapping[str, Mapping[str, Any]]], key: str
) -> str:
  columns = [
    (split, temperature)
    for split, row in next(iter(results.values())).items()
    for temperature in row
  ]
  header = [f'{split} T={temperature}' for split, temperature in columns]
  lines = [f'{key:<12}' + ''.join(f'{h:>20}' for h in header)]
  for name, splits in results.items():
    cells = [splits[s][t][key] for s, t in columns]
    lines.append(f'{name:<12}' + ''.join(f'{cell:>20.3f}' for cell in cells))
  return '\n'.join(lines)


def rollout_scalars(
  trajectories: Sequence[types.Trajectory],
  rewarded: Callable[[types.Trajectory], types.Trajectory],
  reward_scale: float,
) -> dict[str, float]:
  """Sums up a rollout in a few numbers.

  Args:
    trajectories: of the world.
    rewarded: trajectory -> the same with the learner's rewards.
    reward_scale: of the learner's rewards.
  """
  turns = [turn for t in trajectories for turn in t.turns]
  learned = [rewarded(t) for t in trajectories]
  return {
    'rollout/success': float(np.mean([t.won for t in trajectories])),
    'rollout/task_score': task_score(trajectories),
    'rollout/reward': reward_scale * task_score(learned),
    **{
      f'rollout/reward_{name}': mean
      for name, mean in reward_parts(trajectories).items()
    },
    'rollout/turns': len(turns) / len(trajectories),
    'rollout/invalid': float(np.mean([not turn.valid for turn in turns])),
    'rollout/prompt_tokens': float(np.mean([t.prompt.size for t in turns])),
    'rollout/reply_tokens': float(np.mean([t.reply.size for t in turns])),
  }


def flat_results(
  results: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> dict[str, float]:
  """Evaluation results as scalars, `eval/<split>/<temperature>`.

  That is the success; `/task_score` below it is the world's own score, and
  `/reward_<part>` are its parts.
  """
  scalars = {}
  for split, row in results.items():
    for temperature, result in row.items():
      name = f'eval/{split}/{temperature}'
      scalars[name] = result['success']
      scalars[f'{name}/task_score'] = result['task_score']
      for part, mean in result['reward_parts'].items():
        scalars[f'{name}/reward_{part}'] = mean
  return scalars


def transcript(
  trajectory: types.Trajectory, decode: Callable[[Any], str]
) -> str:
  """Writes one episode as readable text.

  Args:
    trajectory: the episode.
    decode: token ids of a reply -> its text, which is shown where it differs
      from the action, such as a reply with thoughts.
  """
  lines = [f'task {trajectory.task}']
  for number, turn in enumerate(trajectory.turns, 1):
    reply = decode(turn.reply).strip()
    lines += [f'--- turn {number}', turn.observation]
    lines += [] if reply == turn.action else [f'< {reply}']
    lines.append(f'> {turn.action}' + ('' if turn.valid else '   (invalid)'))
  ending = (
    'won'
    if trajectory.won
    else 'step limit'
    if trajectory.truncated
    else 'lost'
  )
  return '\n'.join([*lines, f'=== {ending}', ''])


def samples(
  played: Sequence[types.Trajectory], decode: Callable[[Any], str]
) -> str:
  """Writes one won and one lost episode as text, where there are such."""
  chosen = [
    next((t for t in played if t.won == won), None) for won in (True, False)
  ]
  return '\n'.join(transcript(t, decode) for t in chosen if t)


def _mean(values: Sequence[float]) -> float:
  return types.ordered_sum(values) / max(len(values), 1)
