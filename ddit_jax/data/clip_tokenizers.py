"""CLIP's tokenizers L and G, which differ in their padding, from folders."""

import json
import pathlib

from ddit_jax.data.prompt_tokenizers import PromptTokenizer, pad_token

LENGTH = 77
_WHOLE = "tokenizer.json"
_PARTS = ("vocab.json", "merges.txt")
# Marks pieces that end a word.
_WORD_END = "</w>"
_NAMED_PIECES = 3


def clip_tokenizer(
  folder: str | pathlib.Path, length: int = LENGTH
) -> PromptTokenizer:
  """A tokenizer of CLIP, padding with the token its own config names.

  That is <|endoftext|> for CLIP-L and "!" for CLIP-G, whose texts then have
  their own "!" read as padding too: SD3 was trained so.

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
  # A stored file may carry both: they would act unseen.
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


def _load(folder: pathlib.Path):
  """What transformers makes of a folder: its special tokens split texts."""
  # Imported here: it takes a second, and only SD3 needs it.
  import transformers

  try:
    return transformers.CLIPTokenizer.from_pretrained(
      folder, local_files_only=True
    )
  except Exception as error:
    # The libraries raise whatever their parsers do.
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise ValueError(f"damaged files: {line}") from error


def _check_vocabulary(loaded) -> None:
  """Raises ValueError unless all pieces are CLIP's and can be reached."""
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
