"""Text to token ids and back, as a rollout needs it."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from hgpo_jax.model import tokenizer as tokenizer_lib


class Codec:
  """Encodes messages and replies with a tokenizer; remembers the replies.

  Attributes:
    dropped: allowed replies that were too long to be offered, so far.
  """

  def __init__(self, tokenizer: PreTrainedTokenizerFast, max_reply: int):
    """Takes the tokenizer, and how many tokens a reply may have."""
    self._tokenizer, self._max_reply = tokenizer, max_reply
    self.dropped = 0
    self._replies: dict[str, tuple[int, ...]] = {}

  def prompts(self, messages: Sequence[str]) -> list[list[int]]:
    """Encodes one user message per prompt, ready for the reply."""
    return tokenizer_lib.encode_chats(
      self._tokenizer, [[{'role': 'user', 'content': m}] for m in messages]
    )

  def choices(self, texts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Encodes the replies that are allowed, without those that are too long.

    Raises: ValueError if all of them are too long.
    """
    kept = tuple(r for r in self.replies(texts) if len(r) <= self._max_reply)
    self.dropped += len(texts) - len(kept)
    if texts and not kept:
      raise ValueError(
        f'all {len(texts)} allowed replies have more than {self._max_reply} '
        f'tokens, such as {texts[0]!r}; raise sampling.max_reply.'
      )
    return kept

  def replies(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Encodes replies, each with its end of turn."""
    new = [text for text in dict.fromkeys(texts) if text not in self._replies]
    if new:
      encoded = tokenizer_lib.encode_replies(self._tokenizer, new)
      self._replies.update(zip(new, map(tuple, encoded), strict=True))
    return [self._replies[text] for text in texts]

  def text(self, tokens: Sequence[int]) -> str:
    """Decodes a reply up to its end of turn."""
    return tokenizer_lib.decode_reply(self._tokenizer, tokens)
