"""Prompts as the ids a text encoder reads: fixed length, cut and padded."""

import dataclasses
import json
import pathlib

import numpy as np
from jaxtyping import Int32

from ddit_jax.data.pretrained_tokenizers import pretrained_tokenizer
from ddit_jax.data.tokenizer import UNKNOWN

# Either names the special tokens; the first is the newer one.
CONFIG_NAMES = ("tokenizer_config.json", "special_tokens_map.json")


@dataclasses.dataclass(frozen=True)
class PromptIds:
  """One prompt of fixed length.

  Attributes:
    ids: what the text encoder reads.
    num_truncated: ids that did not fit and were cut off.
    num_unknown: pieces of the text that have no id of their own.
  """

  ids: Int32[np.ndarray, " length"]
  num_truncated: int
  num_unknown: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptTokenizer:
  """Start, text, end, padding; what is too long loses its tail, not its end.

  Attributes:
    backend: a `tokenizers.Tokenizer`.
    start_ids: ids before the text, none or one.
    end_id: id after the text.
    pad_id: id that fills up.
    length: ids of every prompt.
    unknown_id: stands for what has no id; None if everything has one.
  """

  backend: object
  start_ids: tuple[int, ...]
  end_id: int
  pad_id: int
  length: int
  unknown_id: int | None = None

  def encode(self, text: str) -> PromptIds:
    """A prompt; the empty one is start, end and padding."""
    text_ids = self.backend.encode(text, add_special_tokens=False).ids
    room = self.length - len(self.start_ids) - 1
    kept = [*self.start_ids, *text_ids[:room], self.end_id]
    ids = np.full(self.length, self.pad_id, np.int32)
    ids[: len(kept)] = kept
    return PromptIds(
      ids,
      num_truncated=max(len(text_ids) - room, 0),
      num_unknown=text_ids.count(self.unknown_id),
    )

  @property
  def vocab_size(self) -> int:
    """Ids lie below this."""
    return self.backend.get_vocab_size(with_added_tokens=True)


def t5_prompt_tokenizer(
  folder: str | pathlib.Path, length: int
) -> PromptTokenizer:
  """T5's tokenizer as SD3 uses it: padded as the folder says.

  Args:
    folder: see `pretrained_tokenizer`; one of its configs names the padding.
    length: ids of every prompt; 256 in diffusers.

  Raises:
    ValueError: the folder's files are missing or damaged, or no or an unknown
      pad token is named.
  """
  folder = pathlib.Path(folder)
  tokenizer = pretrained_tokenizer("t5", folder)
  pad = pad_token(folder)
  pad_id = tokenizer.backend.token_to_id(pad)
  if pad_id is None:
    raise ValueError(f"tokenizer {folder}: its pad token {pad!r} has no id")
  return PromptTokenizer(
    backend=tokenizer.backend,
    start_ids=(),
    end_id=tokenizer.end_id,
    pad_id=pad_id,
    length=length,
    unknown_id=tokenizer.backend.token_to_id(UNKNOWN),
  )


def pad_token(folder: pathlib.Path) -> str:
  """The pad token that a tokenizer's folder names.

  Raises:
    ValueError: its configs are no JSON, name none, or contradict each other.
  """
  named = {}
  for name in CONFIG_NAMES:
    path = folder / name
    if not path.is_file():
      continue
    try:
      token = json.loads(path.read_bytes()).get("pad_token")
    except (ValueError, AttributeError) as error:
      raise ValueError(f"{path} is damaged: {error}") from error
    if token is not None:
      named[name] = token["content"] if isinstance(token, dict) else token
  if not named:
    raise ValueError(
      f"tokenizer {folder}: neither of {CONFIG_NAMES} names a pad_token: copy "
      "the folder with all its files"
    )
  if len(set(named.values())) > 1:
    raise ValueError(
      f"tokenizer {folder}: its files name different pad tokens, {named}: "
      "correct one of them"
    )
  return next(iter(named.values()))
