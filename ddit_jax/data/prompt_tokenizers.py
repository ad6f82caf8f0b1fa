"""Prompts as ids for a text encoder: truncated and padded to fixed length."""

import dataclasses
import json
import pathlib

import numpy as np
from jaxtyping import Int32

from ddit_jax.data.tokenizers import (
  UNKNOWN,
  pretrained_tokenizer,
  read_backend,
)
from ddit_jax.files import read_regular
from ddit_jax.json_files import read_json_object

# Either names the special tokens; the first is the newer one.
_MAX_BYTES = 2**24
_CONFIG_NAMES = ("tokenizer_config.json", "special_tokens_map.json")


@dataclasses.dataclass(frozen=True)
class _PromptIds:
  """One prompt of fixed length.

  Attributes:
    ids: what the text encoder reads.
    num_truncated: ids that did not fit and were cut off.
    num_unknown: unknown tokens of the text.
  """

  ids: Int32[np.ndarray, " length"]
  num_truncated: int
  num_unknown: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptTokenizer:
  """Start, text, end, padding; long texts lose their tail, not the end.

  Attributes:
    backend: a `tokenizers.Tokenizer`.
    start_ids: ids before the text, none or one.
    end_id: id after the text.
    pad_id: id that fills up.
    length: ids per prompt.
    unknown_id: id of unknown tokens; None if every text can be encoded.
  """

  backend: object
  start_ids: tuple[int, ...]
  end_id: int
  pad_id: int
  length: int
  unknown_id: int | None = None

  def encode(self, text: str) -> _PromptIds:
    """A prompt; the empty one is start, end and padding."""
    text_ids = self.backend.encode(text, add_special_tokens=False).ids
    room = self.length - len(self.start_ids) - 1
    kept = [*self.start_ids, *text_ids[:room], self.end_id]
    ids = np.full(self.length, self.pad_id, np.int32)
    ids[: len(kept)] = kept
    return _PromptIds(
      ids,
      num_truncated=max(len(text_ids) - room, 0),
      num_unknown=text_ids.count(self.unknown_id),
    )

  @property
  def vocab_size(self) -> int:
    """All ids are below this."""
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
    ValueError: its configs are not JSON, lack a pad token, or disagree.
  """
  named = {}
  for name in _CONFIG_NAMES:
    path = folder / name
    if not path.is_file():
      continue
    try:
      token = read_json_object(path, max_bytes=_MAX_BYTES).get("pad_token")
    except ValueError as error:
      raise ValueError(f"{path} is damaged: {error}") from error
    if isinstance(token, dict):
      token = token.get("content")
    if isinstance(token, str):
      named[name] = token
  if not named:
    raise ValueError(
      f"tokenizer {folder}: neither of {_CONFIG_NAMES} names a pad_token: copy "
      "the folder with all its files"
    )
  if len(set(named.values())) > 1:
    raise ValueError(
      f"tokenizer {folder}: its files name different pad tokens, {named}: "
      "correct one of them"
    )
  return next(iter(named.values()))


_LENGTH = 77
_WHOLE = "tokenizer.json"
_PARTS = ("vocab.json", "merges.txt")
# Suffix of tokens that end a word.
_WORD_END = "</w>"
_NAMED_PIECES = 3


def clip_tokenizer(
  folder: str | pathlib.Path, length: int = _LENGTH
) -> PromptTokenizer:
  """A tokenizer of CLIP, padding with the token its own config names.

  That is <|endoftext|> for CLIP-L and "!" for CLIP-G, where a "!" in the text
  is then treated as padding too: SD3 was trained this way.

  Args:
    folder: holds `tokenizer.json`, or `vocab.json` with `merges.txt`; and
      `tokenizer_config.json` or `special_tokens_map.json`.
    length: ids of every prompt, CLIP's number of positions.

  Raises:
    ValueError: files are missing, damaged or of another tokenizer.
  """
  folder = pathlib.Path(folder)
  _check_files(folder)
  pad = pad_token(folder)
  try:
    loaded = _load(folder)
    _check_vocabulary(loaded)
    if loaded.pad_token != pad:
      raise ValueError(
        f"transformers pads with {loaded.pad_token!r}, the folder says {pad!r}"
      )
  except ValueError as error:
    raise ValueError(f"tokenizer {folder}: {error}") from error
  backend = loaded.backend_tokenizer
  # A stored file may contain both, which would act silently.
  backend.no_truncation()
  backend.no_padding()
  return PromptTokenizer(
    backend=backend,
    start_ids=(loaded.bos_token_id,),
    end_id=loaded.eos_token_id,
    pad_id=loaded.pad_token_id,
    length=length,
  )


def _check_files(folder: pathlib.Path) -> None:
  if not folder.is_dir():
    raise ValueError(f"there is no tokenizer folder {folder}")
  found = {path.name for path in folder.iterdir()}
  if _WHOLE not in found and not found.issuperset(_PARTS):
    raise ValueError(
      f"tokenizer {folder}: needs {_WHOLE} or {' with '.join(_PARTS)}, found "
      f"{sorted(found)}"
    )
  if _WHOLE in found:
    # transformers would end in a panic of the library below it.
    read_backend(read_regular(folder / _WHOLE))


def _load(folder: pathlib.Path):
  """Loads a folder with transformers, so that special tokens split texts."""
  # Imported here: it takes a second, and only SD3 needs it.
  import transformers

  try:
    return transformers.CLIPTokenizer.from_pretrained(
      folder, local_files_only=True, trust_remote_code=False
    )
  except Exception as error:
    # The parsers may raise any exception.
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise ValueError(f"damaged files: {line}") from error


def _check_vocabulary(loaded) -> None:
  """Raises ValueError unless all tokens are CLIP's and reachable by merges."""
  backend = loaded.backend_tokenizer
  stored = json.loads(backend.to_str())["model"]
  added = sorted(set(backend.get_vocab(True)) - set(backend.get_vocab(False)))
  if added:
    raise ValueError(f"its vocabulary lacks the special tokens {added}")
  pieces = set(stored["vocab"]) - {loaded.bos_token, loaded.eos_token}
  letters = _letters()
  if missing := sorted(letters - pieces):
    raise ValueError(
      f"it lacks {len(missing)} of the {len(letters)} bytes that CLIP's words "
      f"are made of (first: {missing[0]!r}): use a folder of CLIP's"
    )
  merged = {"".join(pair) for pair in stored["merges"]}
  if lost := sorted(pieces - letters - merged):
    raise ValueError(
      f"{len(lost)} pieces come from no merge (first: "
      f"{lost[:_NAMED_PIECES]}): its merges are cut off or of another model"
    )
  if loaded.eos_token_id != backend.get_vocab_size() - 1:
    raise ValueError(
      f"{loaded.eos_token!r} has id {loaded.eos_token_id} of "
      f"{backend.get_vocab_size()}: CLIP's encoder takes the highest id for "
      "the end of a text"
    )


def _letters() -> set[str]:
  """All bytes, inside a word and at its end, as byte-level BPE writes them."""
  from tokenizers import pre_tokenizers

  alphabet = pre_tokenizers.ByteLevel.alphabet()
  return {*alphabet, *(letter + _WORD_END for letter in alphabet)}
