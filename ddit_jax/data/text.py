"""How captions, questions and answers lie in a text of fixed length.

Padding is the end token, in training and sampling, and is a target like any
other token: so the network learns where a text ends (release's convention).
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from ddit_jax.data.example import BadRecord, Example
from ddit_jax.data.tokenizers import Tokenizer

_NAMED_WORDS = 5


@dataclasses.dataclass(frozen=True)
class TokenizedText:
  """One text of fixed length.

  Attributes:
    tokens: int32 [length].
    loss_mask: bool [length], False on the prompt.
    num_truncated: tokens that did not fit and were cut off.
  """

  tokens: np.ndarray
  loss_mask: np.ndarray
  num_truncated: int


def tokenize_and_pad(
  tokenizer: Tokenizer, prompt: str, text: str, length: int
) -> TokenizedText:
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
  loss_mask = np.arange(length) >= len(prompt_ids)
  return TokenizedText(tokens, loss_mask, len(ids) - len(kept))


def caption_tokens(
  tokenizer: Tokenizer, caption: str, length: int
) -> np.ndarray:
  """A caption as the image stream's condition, int32 [length].

  The empty caption gives the null condition of classifier-free guidance.

  Raises:
    ValueError: the caption does not fit.
  """
  tokenized = tokenize_and_pad(tokenizer, "", caption, length)
  # A cut-off end token is no loss: the text itself is whole.
  if tokenized.num_truncated > 1:
    raise ValueError(
      f"the caption {caption!r} has {tokenized.num_truncated + length - 1} "
      f"tokens but the text length is {length}: shorten it, or train with a "
      "larger text_length of the stream"
    )
  return tokenized.tokens


def check_prompt(tokenizer: Tokenizer, text: str) -> None:
  """Raises ValueError if a word of a text would be lost to <unk>."""
  unknown = tokenizer.unknown_pieces(text)
  if unknown:
    raise ValueError(
      f"the tokenizer of this checkpoint does not know {_named(unknown)} in "
      f"{text!r}: use the words of its training texts"
    )


def masked_template(
  tokenizer: Tokenizer, prompt: str, length: int
) -> tuple[np.ndarray, np.ndarray]:
  """What a sampler starts from: (tokens, prompt_mask), each [length]."""
  tokenized = tokenize_and_pad(tokenizer, prompt, "", length)
  return tokenized.tokens, ~tokenized.loss_mask


def answer_text(
  tokenizer: Tokenizer, tokens: np.ndarray, prompt_mask: np.ndarray
) -> str:
  """The text a sampler filled in, cut at its first end token."""
  return tokenizer.decode(tokens[~prompt_mask])


def _named(words: Sequence[str]) -> str:
  """'dog', 'cat' and 3 more."""
  shown = ", ".join(map(repr, words[:_NAMED_WORDS]))
  more = len(words) - _NAMED_WORDS
  return f"{shown} and {more} more" if more > 0 else shown


# Longer ones are no captions or answers, and tokenising them takes seconds.
MAX_CHARACTERS = 100_000

_SIDE = re.compile(
  r"\b(?:left|right|clockwise|anti-?clockwise|counter-?clockwise)"
  r"(?:s|most|ward|wards|hand|handed|side)?\b",
  re.IGNORECASE,
)


def names_a_side(*texts: str) -> bool:
  """Whether a text says left or right, so that mirroring would make it false.

  Whole words only: "bright" names no side, "left-hand" and "rightmost" do.
  """
  return any(_SIDE.search(text) for text in texts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTransform:
  """Draws one text of an example and lays out its tokens.

  Attributes:
    tokenizer: turns text into ids.
    length: tokens of every text.
    rewritten_probability: of drawing among an example's rewritten captions,
      if it has any, and not among its own texts.
  """

  tokenizer: Tokenizer
  length: int
  rewritten_probability: float = 1.0

  def __post_init__(self):
    if self.length < 1:
      raise ValueError(f"text_length must be positive, got {self.length}")
    if not 0 <= self.rewritten_probability <= 1:
      raise ValueError(
        "rewritten_probability must lie in [0, 1], got "
        f"{self.rewritten_probability}"
      )

  def draw(self, example: Example, rng: np.random.Generator) -> str:
    """One of the texts; always takes two draws from `rng`.

    Raises:
      BadRecord: empty_text, if there is none or the drawn one is blank.
    """
    wants_rewritten = rng.random() < self.rewritten_probability
    share = rng.random()
    texts = example.texts
    if example.rewritten and (wants_rewritten or not texts):
      texts = example.rewritten
    text = texts[int(share * len(texts))] if texts else ""
    if not text.strip():
      raise BadRecord(
        "empty_text",
        f"the text drawn from {len(texts)} is blank",
        example.record_id,
      )
    return text

  def tokenize_and_pad(
    self, prompt: str, text: str, record_id: str
  ) -> TokenizedText:
    """Prompt, text, end token and padding; too long texts are cut.

    Raises:
      BadRecord: wrong_length (the prompt leaves no room, or there are more
        than MAX_CHARACTERS) or bad_text (no Unicode, or it holds the mask or
        the end token, which training would take for its own).
    """
    num_characters = len(prompt) + len(text)
    if num_characters > MAX_CHARACTERS:
      raise BadRecord(
        "wrong_length",
        f"{num_characters} characters, at most {MAX_CHARACTERS} are allowed",
        record_id,
      )
    try:
      (prompt + text).encode()
    except UnicodeEncodeError as error:
      raise BadRecord("bad_text", str(error), record_id) from error
    try:
      tokenized = tokenize_and_pad(self.tokenizer, prompt, text, self.length)
    except ValueError as error:
      raise BadRecord("wrong_length", str(error), record_id) from error
    self._check_special_tokens(tokenized.tokens, record_id)
    return tokenized

  def _check_special_tokens(self, tokens: np.ndarray, record_id: str) -> None:
    is_end = tokens == self.tokenizer.end_id
    if (is_end[:-1] & ~is_end[1:]).any():
      raise BadRecord("bad_text", "the end token inside the text", record_id)
    if (tokens == self.tokenizer.mask_id).any():
      raise BadRecord("bad_text", "the mask token inside the text", record_id)
