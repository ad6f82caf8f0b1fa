"""How captions, questions and answers lie in a text of fixed length.

Padding is the end token, in training and sampling, and is a target like any
other token: so the network learns where a text ends (release's convention).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ddit_jax.data.tokenizer import Tokenizer

_NAMED_WORDS = 5


@dataclasses.dataclass(frozen=True)
class LaidOutText:
  """One text of fixed length.

  Attributes:
    tokens: int32 [length].
    is_target: bool [length], False on the prompt.
    num_truncated: tokens that did not fit and were cut off.
  """

  tokens: np.ndarray
  is_target: np.ndarray
  num_truncated: int


def lay_out(
  tokenizer: Tokenizer, prompt: str, text: str, length: int
) -> LaidOutText:
  """prompt (fixed), text, end token, padding.

  Args:
    tokenizer: turns both into ids.
    prompt: what is given, e.g. "Q: is it red? A: "; "" for a caption.
    text: what is to be learned: caption or answer.
    length: of the result.

  Raises:
    ValueError: the prompt leaves no room for a token of the text.
  """
  prompt_ids = tokenizer.encode(prompt) if prompt else []
  if len(prompt_ids) >= length:
    raise ValueError(
      f"the prompt {prompt!r} has {len(prompt_ids)} tokens, which leaves no "
      f"room in a text of {length}: shorten it, or train with a larger "
      "text_length of the stream"
    )
  ids = [*prompt_ids, *tokenizer.encode(text), tokenizer.end_id]
  tokens = np.full(length, tokenizer.end_id, np.int32)
  kept = ids[:length]
  tokens[: len(kept)] = kept
  is_target = np.arange(length) >= len(prompt_ids)
  return LaidOutText(tokens, is_target, len(ids) - len(kept))


def caption_tokens(
  tokenizer: Tokenizer, caption: str, length: int
) -> np.ndarray:
  """A caption as the image stream's condition, int32 [length].

  The empty caption gives the null condition of classifier-free guidance.

  Raises:
    ValueError: the caption does not fit.
  """
  laid_out = lay_out(tokenizer, "", caption, length)
  # A cut-off end token is no loss: the text itself is whole.
  if laid_out.num_truncated > 1:
    raise ValueError(
      f"the caption {caption!r} has {laid_out.num_truncated + length - 1} "
      f"tokens but the text length is {length}: shorten it, or train with a "
      "larger text_length of the stream"
    )
  return laid_out.tokens


def check_known(tokenizer: Tokenizer, text: str) -> None:
  """Raises ValueError if a word of a text would be lost to <unk>."""
  unknown = tokenizer.unknown_pieces(text)
  if unknown:
    raise ValueError(
      f"the tokenizer of this checkpoint does not know {_named(unknown)} in "
      f"{text!r}: use the words of its training texts"
    )


def prompt_canvas(
  tokenizer: Tokenizer, prompt: str, length: int
) -> tuple[np.ndarray, np.ndarray]:
  """What a sampler starts from: (tokens, is_fixed), each [length]."""
  laid_out = lay_out(tokenizer, prompt, "", length)
  return laid_out.tokens, ~laid_out.is_target


def answer_text(
  tokenizer: Tokenizer, tokens: np.ndarray, is_fixed: np.ndarray
) -> str:
  """The text a sampler filled in, cut at its first end token."""
  return tokenizer.decode(tokens[~is_fixed])


def _named(words: Sequence[str]) -> str:
  """'dog', 'cat' and 3 more."""
  shown = ", ".join(map(repr, words[:_NAMED_WORDS]))
  more = len(words) - _NAMED_WORDS
  return f"{shown} and {more} more" if more > 0 else shown
