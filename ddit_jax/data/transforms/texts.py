"""The text of one visit: which one is drawn, and its tokens."""

import dataclasses
import re

import numpy as np

from ddit_jax.data.examples import BadRecord, Example
from ddit_jax.data.text_layout import LaidOutText, lay_out
from ddit_jax.data.tokenizer import Tokenizer

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
      raise ValueError(f"the text length must be positive, got {self.length}")
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

  def lay_out(self, prompt: str, text: str, record_id: str) -> LaidOutText:
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
      laid_out = lay_out(self.tokenizer, prompt, text, self.length)
    except ValueError as error:
      raise BadRecord("wrong_length", str(error), record_id) from error
    self._check_special_tokens(laid_out.tokens, record_id)
    return laid_out

  def _check_special_tokens(self, tokens: np.ndarray, record_id: str) -> None:
    is_end = tokens == self.tokenizer.end_id
    if (is_end[:-1] & ~is_end[1:]).any():
      raise BadRecord("bad_text", "the end token inside the text", record_id)
    if (tokens == self.tokenizer.mask_id).any():
      raise BadRecord("bad_text", "the mask token inside the text", record_id)
