"""Tasks played by hand: lines in, pages and the reward's parts out."""

import io
import sys

import pytest

from envs import play
from envs.alfworld import play as alfworld_play
from envs.base import Task
from envs.toy import GuessEnv
from envs.webshop import play as webshop_play


def played(main, argv, lines, monkeypatch, capsys):
  monkeypatch.setattr(sys, 'stdin', io.StringIO('\n'.join([*lines, ''])))
  main(argv)
  return capsys.readouterr().out


def test_actions_are_typed_or_numbered():
  env, out = GuessEnv(), io.StringIO()
  task = Task('train', 0)
  first = env.reset(task)
  word = first.observation[len('Say ') : -1]
  number = first.admissible.index(word)
  step = play.play_task(env, task, io.StringIO(f'{number}\nx\n'), out)
  assert step.terminated
  assert not step.won
  text = out.getvalue()
  assert f'  {number}: {word}\n' in text
  assert '[1] > ' in text
  assert text.endswith('lost after 2 turns; reward 0.000\n')


def test_lines_that_end_early_end_the_play():
  out = io.StringIO()
  assert not play.play_task(GuessEnv(), Task('train', 0), io.StringIO(''), out)
  assert 'The input ended' in out.getvalue()


def test_a_purchase_shows_its_parts(monkeypatch, capsys):
  text = played(
    webshop_play.main,
    ['--family=easy', '--task=0'],
    ['search[hiking trousers navy]', 'click[next >]', 'click[< prev]', '2',
     'click[buy now]'],
    monkeypatch, capsys,
  )  # fmt: skip
  assert 'Instruction:\nFind me hiking trousers' in text
  assert '[4] > ' in text
  assert 'lost after 5 turns; reward 0.' in text
  for part in ('attributes', 'options', 'price', 'type_factor', 'title_score'):
    assert f'\n  {part} ' in text


def test_every_plain_option_of_a_world_is_an_argument(monkeypatch, capsys):
  argv = ['--family=easy', '--queries=free', '--per_page=1', '--max_turns=1']
  text = played(webshop_play.main, argv, ['0'], monkeypatch, capsys)
  assert '0: search[<your query>]' in text
  assert 'step limit after 1 turns' in text


def test_a_household_task_ends_at_its_limit(monkeypatch, capsys):
  pytest.importorskip('alfworld')
  text = played(
    alfworld_play.main, ['--max_turns=2'], ['look', '0'], monkeypatch, capsys
  )
  assert 'Your task is to: ' in text
  assert text.endswith('step limit after 2 turns; reward 0.000\n')


@pytest.mark.parametrize(
  ('main', 'argv', 'told'),
  [
    (webshop_play.main, ['--split=valid'], "no split 'valid'"),
    (webshop_play.main, ['--max_turns=0'], 'max_turns is 0'),
    (webshop_play.main, ['--products=x'], 'items_ins_v2'),
    (webshop_play.main, ['--human=x'], 'items_ins_v2'),
    (alfworld_play.main, ['--task=-1'], '-1'),
  ],
)
def test_what_cannot_be_played_is_told(main, argv, told):
  with pytest.raises(SystemExit, match=told):
    main(argv)
