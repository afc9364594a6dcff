"""Configs of small runs, and what the runs leave behind."""

import json

from experiments.configs import base, toy


def changed(draft, **changes):
  """The draft of a config with other values: `section__field=value`."""
  draft.update_from_flattened_dict(
    {name.replace('__', '.'): value for name, value in changes.items()}
  )
  return draft


def config(**changes):
  """The toy's, changed."""
  return base.freeze(changed(toy.get_config().unlock(), **changes))


def records(folder):
  """The metrics of a run without their timing."""
  lines = map(json.loads, (folder / 'metrics.jsonl').read_text().splitlines())
  return [
    {k: v for k, v in r.items() if not k.startswith('time/')} for r in lines
  ]
