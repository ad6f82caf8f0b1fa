"""How many ids a tokenizer folder has."""

import functools
import pathlib

from ddit_jax.conversion.errors import ConversionError

MASK_TOKEN = "<extra_id_0>"
# Either is enough for T5's tokenizer.
_TOKENIZER_FILES = ("tokenizer.json", "spiece.model")


@functools.cache
def tokenizer_size(folder: pathlib.Path) -> int:
  """The number of ids, one row of the text head each.

  Raises:
    ConversionError: the folder cannot be read, or its mask token is not the
      last id, as D-DiT needs.
  """
  if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
    raise ConversionError(
      f"{folder} holds no tokenizer ({' or '.join(_TOKENIZER_FILES)}): give "
      "the folder that does"
    )
  # Imported here: it takes seconds, and few conversions need it.
  try:
    from transformers import AutoTokenizer
  except ImportError as error:
    raise ConversionError(
      f"reading {folder} needs the package transformers: install it, or give "
      "--vocab_size=N"
    ) from error
  try:
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
  except Exception as error:
    # The library raises whatever its parsers do; the cause stays attached.
    reason = str(error).splitlines()[0]
    raise ConversionError(
      f"{folder} is not a readable tokenizer folder ({reason}): fetch it again"
    ) from error
  size = len(tokenizer)
  mask_id = tokenizer.convert_tokens_to_ids(MASK_TOKEN)
  if mask_id != size - 1:
    raise ConversionError(
      f"the tokenizer in {folder} has {size} ids and {MASK_TOKEN} is "
      f"{mask_id}, but the mask token must be the last id: give T5's own"
    )
  return size
