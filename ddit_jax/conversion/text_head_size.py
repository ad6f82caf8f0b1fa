"""How many rows the text head has: one for each id of the tokenizer."""

import pathlib

from ddit_jax.conversion.errors import ConversionError
from ddit_jax.conversion.layouts import Source
from ddit_jax.conversion.tokenizer_folder import tokenizer_size
from ddit_jax.models.config import MMDiTConfig

# Rows of T5's embedding table, padded, -> ids of its tokenizer.
_PADDED_VOCABULARIES = {32128: 32100}
_T5_XXL_WIDTH, _T5_XXL_IDS = 4096, 32100


def check_wanted_size(vocab_size: int | None, *, is_head_fresh: bool) -> None:
  """Raises unless the rows that were asked for can be made.

  Args:
    vocab_size: rows of the text head; None asks for nothing.
    is_head_fresh: True for D-DiT made from SD3, False where the head is the
      checkpoint's own or there is none.

  Raises:
    ConversionError: no such head can be made.
  """
  if vocab_size is None:
    return
  if vocab_size < 1:
    raise ConversionError(
      f"--vocab_size={vocab_size} is no number of rows: name at least 1"
    )
  if not is_head_fresh:
    raise ConversionError(
      f"--vocab_size={vocab_size} is for a text head that starts fresh, which "
      "only D-DiT made from SD3 has: leave it out"
    )


def fresh_head_size(
  source: Source, config: MMDiTConfig, tokenizer: pathlib.Path | None
) -> tuple[int, str]:
  """Rows of the text head that a network from SD3 gets.

  Args:
    source: the checkpoint.
    config: its network.
    tokenizer: folder of T5's tokenizer, or None.

  Returns:
    The rows, and a note where they were guessed ("" if the tokenizer told).

  Raises:
    ConversionError: nothing tells.
  """
  if tokenizer is not None:
    return tokenizer_size(tokenizer), ""
  table = None
  if "text_encoder" in source.components:
    table = source.components["text_encoder"].tensors.get("shared.weight")
  if table is not None:
    rows = table.shape[0]
    size = _PADDED_VOCABULARIES.get(rows, rows)
    why = f"T5's embedding table has {rows} rows"
  elif config.context_dim == _T5_XXL_WIDTH:
    size, why = _T5_XXL_IDS, "text features are as wide as T5-XXL's"
  else:
    raise ConversionError(
      f"{source.path} holds neither a tokenizer nor T5, so nothing tells the "
      "rows of the text head: give --tokenizer=FOLDER or --vocab_size=N"
    )
  note = (
    f"text head of {size} rows because {why}: without --tokenizer=FOLDER or "
    "--vocab_size=N nothing else tells"
  )
  return size, note


def check_head(vocab_size: int, tokenizer: pathlib.Path | None) -> None:
  """Raises unless the tokenizer, where there is one, has as many ids.

  Raises:
    ConversionError: the two numbers differ, or the tokenizer is unreadable.
  """
  if tokenizer is None:
    return
  size = tokenizer_size(tokenizer)
  if size != vocab_size:
    raise ConversionError(
      f"the text head has {vocab_size} rows but the tokenizer in {tokenizer} "
      f"has {size} ids: they must agree; use the tokenizer of this checkpoint"
    )
