"""Text <-> token ids: one code path for Qwen's tokenizer and for a small one.

`load` reads a Hugging Face folder (Qwen2.5's, or one that `save` wrote);
`build` makes a tokenizer from a world's own text, for a policy that is trained
from random init. Its tokens are whole phrases (see `phrases`). What was not
seen when it was built is spelled in pieces, at worst in bytes, so that every
text comes back unchanged.

`encode_chats`, `encode_replies` and `decode_reply`, which the trainer calls,
treat what stands in a message as plain text: a marker such as `<|im_end|>`
inside an observation cannot end the turn.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence

import tokenizers
from tokenizers import decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hgpo_jax.model import phrases

Message = Mapping[str, str]  # {'role': ..., 'content': ...}

PAD = '<|endoftext|>'
START = '<|im_start|>'
END = '<|im_end|>'  # ends every turn
SPECIAL_TOKENS = (PAD, START, END)

# The shape of Qwen2.5's prompts, without its default system message.
CHAT_TEMPLATE = (
  '{% for message in messages %}'
  "{{ '<|im_start|>' + message['role'] + '\n' }}"
  "{{ message['content'] + '<|im_end|>\n' }}"
  '{% endfor %}'
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Two markers a turn instead of four tokens: for prompts of a few dozen tokens.
SHORT_CHAT_TEMPLATE = (
  "{% for message in messages %}{{ message['content'] + '<|im_end|>' }}"
  '{% endfor %}'
  "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}"
)
CHAT_TEMPLATES = {'qwen': CHAT_TEMPLATE, 'short': SHORT_CHAT_TEMPLATE}
# The lines that CHAT_TEMPLATE adds: each of them becomes one token.
_ROLE_LINES = ('system\n', 'user\n', 'assistant\n')


# ---- building ---------------------------------------------------------------


def build(
  texts: Iterable[str],
  vocab_size: int = 1024,
  *,
  pattern: str | None = None,
  num_merges: int = 128,
  chat_template: str = CHAT_TEMPLATE,
) -> PreTrainedTokenizerFast:
  """Builds a byte-level tokenizer whose tokens are the phrases of `texts`.

  Args:
    texts: what the policy will read and write: message contents and replies.
      Equal texts in equal order give an equal tokenizer.
    vocab_size: most tokens that it may have. 259 are bytes and chat markers.
    pattern: regular expression (Oniguruma) of the pieces that may become one
      token; `learn_pattern(texts)` when None.
    num_merges: tokens kept for spelling words that are not a whole token.
    chat_template: Jinja text; it must print contents unchanged.

  Returns: the tokenizer, smaller than `vocab_size` where `texts` hold fewer
    repeated pieces.
  Raises: ValueError if `vocab_size` has no room for bytes, markers and merges.
  """
  counts = collections.Counter(texts)
  # Every prompt has these; the 2 lets them count where there are no texts.
  counts.update(dict.fromkeys(_ROLE_LINES, counts.total() + 2))
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  least = len(alphabet) + len(SPECIAL_TOKENS) + num_merges
  if vocab_size < least:
    raise ValueError(
      f'vocab_size={vocab_size} with num_merges={num_merges}: expected at '
      f'least {least}; raise vocab_size or lower num_merges.'
    )
  if pattern is None:
    pattern = phrases.learn_pattern(counts)
  splitter = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(pattern), 'isolated'),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  pieces = phrases.count_pieces(counts, splitter)
  spelled, merges = phrases.spelling(pieces, num_merges)
  whole = [p for p in phrases.most_saved(pieces) if p not in spelled]
  whole = whole[: vocab_size - len(SPECIAL_TOKENS) - len(spelled)]
  vocab = {token: i for i, token in enumerate([*spelled, *whole])}
  # `ignore_merges`: a piece that is a token needs no chain of merges, and so no
  # tokens for the links of that chain.
  backend = tokenizers.Tokenizer(
    models.BPE(vocab=vocab, merges=merges, ignore_merges=True)
  )
  backend.pre_tokenizer = splitter
  backend.decoder = decoders.ByteLevel()
  tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=backend,
    pad_token=PAD,
    eos_token=END,
    additional_special_tokens=[START],
    clean_up_tokenization_spaces=False,
    padding_side='left',
  )
  tokenizer.chat_template = chat_template
  return tokenizer


# ---- files ------------------------------------------------------------------


def load(path: str | os.PathLike[str]) -> PreTrainedTokenizerFast:
  """Reads a tokenizer from a local Hugging Face folder; nothing is downloaded.

  Raises:
    FileNotFoundError: the folder or its `tokenizer.json` is missing.
    ValueError: it is not a fast tokenizer, or has no chat template or no
      end-of-turn marker.
  """
  file = os.path.join(path, 'tokenizer.json')
  if not os.path.isfile(file):
    raise FileNotFoundError(
      f'{file} is missing: expected a Hugging Face folder with '
      'tokenizer.json and tokenizer_config.json, as in a Qwen2.5-Instruct '
      'checkpoint or as written by tokenizer.save(). Download the checkpoint '
      'first, or build a tokenizer from environment text.'
    )
  tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
  if not isinstance(tokenizer, PreTrainedTokenizerFast):
    raise ValueError(
      f'{path} holds a {type(tokenizer).__name__}: expected a fast tokenizer.'
    )
  end_id(tokenizer)
  if not tokenizer.chat_template:
    raise ValueError(
      f'{path} has no chat template: expected one in tokenizer_config.json '
      'or chat_template.jinja; use the folder of an Instruct checkpoint.'
    )
  return tokenizer


def save(
  tokenizer: PreTrainedTokenizerFast, path: str | os.PathLike[str]
) -> None:
  """Writes the folder that `load` reads."""
  tokenizer.save_pretrained(path)


# ---- for the trainer --------------------------------------------------------


def end_id(tokenizer: PreTrainedTokenizerFast) -> int:
  """The id that ends a turn; a base checkpoint's own eos is another one."""
  token_id = tokenizer.backend_tokenizer.token_to_id(END)
  if token_id is None:
    raise ValueError(
      f"the tokenizer has no {END}: expected one with Qwen's chat markers."
    )
  return token_id


def pad_id(tokenizer: PreTrainedTokenizerFast) -> int:
  """The id that fills rows; never a part of a reply."""
  return tokenizer.pad_token_id


def token_parts(tokenizer: PreTrainedTokenizerFast) -> dict[int, list[int]]:
  """Splits the tokens that are phrases into the tokens of their words.

  Returns: id of a token with a blank inside -> ids of its words, such as
    ` fridge 1` -> ` fridge`, ` 1`. A word that is no token gives its pieces.
  """
  special = set(tokenizer.all_special_ids)
  texts = {
    i: tokenizer.backend_tokenizer.decode([i], skip_special_tokens=False)
    for i in range(len(tokenizer))
    if i not in special
  }
  words = {i: re.findall(r'\s*\S+', text) for i, text in texts.items()}
  several = {i: found for i, found in words.items() if len(found) > 1}
  ids = _encode_plain(
    tokenizer, (w for found in several.values() for w in found)
  )
  return {i: [t for w in found for t in ids[w]] for i, found in several.items()}


def encode_chats(
  tokenizer: PreTrainedTokenizerFast, chats: Sequence[Sequence[Message]]
) -> list[list[int]]:
  """Ids of prompts, up to where the assistant's reply begins.

  They are equal to what `apply_chat_template` makes of each of them, except
  where a content holds a marker: here that is plain text.

  The template is rendered once per sequence of roles and not once per prompt,
  and equal stretches of text are encoded once.

  Raises: ValueError if the chat template does not print contents unchanged.
  """
  layouts: dict[tuple[str, ...], _Layout] = {}
  filled = []
  for messages in chats:
    roles = tuple(message['role'] for message in messages)
    if roles not in layouts:
      layouts[roles] = _layout(tokenizer, roles)
    filled.append(layouts[roles].fill([m['content'] for m in messages]))
  ids = _encode_plain(
    tokenizer, (p for parts in filled for p in parts if isinstance(p, str))
  )
  return [
    [i for p in parts for i in (ids[p] if isinstance(p, str) else (p,))]
    for parts in filled
  ]


def encode_reply(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
  """Ids of a reply, with the end of its turn."""
  return encode_replies(tokenizer, [text])[0]


def encode_replies(
  tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> list[list[int]]:
  """`encode_reply` of many texts; equal texts are encoded once."""
  ids, end = _encode_plain(tokenizer, texts), end_id(tokenizer)
  return [[*ids[text], end] for text in texts]


def decode_reply(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
  """The text of a reply: up to the end of its turn, without padding after it.

  Other markers that the policy wrote stay visible: a reply that holds one is
  not the action that it would be without.
  """
  ids, end, pad = [int(i) for i in ids], end_id(tokenizer), pad_id(tokenizer)
  ids = ids[: ids.index(end)] if end in ids else ids
  while ids and ids[-1] == pad:
    ids.pop()
  return tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)


@dataclasses.dataclass(frozen=True)
class _Layout:
  """A rendered template: marker ids, and stretches of text with gaps.

  A stretch is text, index of a content, text, index, ..., text.
  """

  parts: tuple[int | tuple[str | int, ...], ...]

  def fill(self, contents: Sequence[str]) -> list[int | str]:
    return [
      part
      if isinstance(part, int)
      else ''.join(contents[x] if isinstance(x, int) else x for x in part)
      for part in self.parts
    ]


def _layout(
  tokenizer: PreTrainedTokenizerFast, roles: tuple[str, ...]
) -> _Layout:
  # Private-use characters that no template writes; the blanks around them
  # reveal a template that strips.
  gaps = [f' \ue000{i}\ue001\n' for i in range(len(roles))]
  text = tokenizer.apply_chat_template(
    [{'role': r, 'content': g} for r, g in zip(roles, gaps, strict=True)],
    tokenize=False,
    add_generation_prompt=True,
  )
  assert isinstance(text, str)  # not ids: for the type checker
  if any(text.count(gap) != 1 for gap in gaps):
    raise ValueError(
      f'the chat template turned messages of roles {roles} into {text!r}: '
      'expected every content once and unchanged; use another template.'
    )
  markers = {
    token.content: i
    for i, token in tokenizer.added_tokens_decoder.items()
    if token.special
  }
  parts: list[int | tuple[str | int, ...]] = []
  for part in re.split(f'({"|".join(map(re.escape, markers))})', text):
    if part in markers:
      parts.append(markers[part])
    elif part:
      pieces = re.split(' \ue000([0-9]+)\ue001\n', part)
      parts.append(tuple(int(x) if i % 2 else x for i, x in enumerate(pieces)))
  return _Layout(tuple(parts))


def _encode_plain(
  tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]
) -> dict[str, list[int]]:
  """Ids of each distinct text, read as plain text whatever it holds."""
  distinct = list(dict.fromkeys(texts))
  if not distinct:
    return {}
  ids = tokenizer(
    distinct,
    add_special_tokens=False,
    split_special_tokens=True,
    return_attention_mask=False,
    return_token_type_ids=False,
  )['input_ids']
  return dict(zip(distinct, ids, strict=True))
