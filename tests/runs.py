"""What runs leave behind, for tests that compare them."""

import json


def records(folder):
  """The metrics of a run without their timing."""
  lines = map(json.loads, (folder / 'metrics.jsonl').read_text().splitlines())
  return [
    {k: v for k, v in r.items() if not k.startswith('time/')} for r in lines
  ]
