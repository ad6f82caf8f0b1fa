"""Tokenizer folders of a converted checkpoint; rows of its text head."""

import functools
import pathlib
from collections.abc import Mapping

from ddit_jax.conversion.formats import Checkpoint
from ddit_jax.conversion.key_map import FORMATS
from ddit_jax.conversion.source_tree import check_source_tree
from ddit_jax.data.tokenizers import pretrained_tokenizer
from ddit_jax.errors import InputError, preparing
from ddit_jax.models.config import MMDiTConfig

T5_TOKENIZER = "tokenizer"
# Our folder -> its name in SD3's diffusers folder.
SD3_TOKENIZERS = {
  ours: theirs
  for ours, theirs in FORMATS["sd3_folder"].plain_folders.items()
  if ours.startswith(T5_TOKENIZER)
}
# Either one is a complete CLIP tokenizer.
_CLIP_FILES = ({"tokenizer.json"}, {"vocab.json", "merges.txt"})
# Rows of T5's padded embedding table -> ids of its tokenizer.
_PADDED_VOCABULARIES = {32128: 32100}
_T5_XXL_WIDTH, _T5_XXL_IDS = 4096, 32100


def tokenizer_folders(
  source: Checkpoint, given: pathlib.Path | None
) -> dict[str, pathlib.Path]:
  """Our folder -> the folder to copy.

  Args:
    source: the checkpoint; its own tokenizers are taken.
    given: replaces them: a folder of T5's tokenizer, or one that holds SD3's
      three, `tokenizer`, `tokenizer_2` and `tokenizer_3`; None for neither.

  Raises:
    InputError: `given` is no folder, or links out of itself.
  """
  folders = {
    name: folder
    for name, folder in source.plain_folders.items()
    if name in SD3_TOKENIZERS
  }
  if given is None:
    return folders
  if not given.is_dir():
    raise InputError(f"--tokenizer={given} is not a folder: check the path")
  check_source_tree(given, ["."])
  if not (given / SD3_TOKENIZERS[T5_TOKENIZER]).is_dir():
    return folders | {T5_TOKENIZER: given}
  return folders | {
    ours: given / theirs
    for ours, theirs in SD3_TOKENIZERS.items()
    if (given / theirs).is_dir()
  }


def tokenizer_notes(folders: Mapping[str, pathlib.Path]) -> list[str]:
  """Tokenizers missing for sampling with SD3, one line each."""
  notes = []
  for ours, theirs in SD3_TOKENIZERS.items():
    if ours not in folders:
      notes.append(
        f"{ours} is not in the source: to sample SD3 give --tokenizer=FOLDER "
        f"with its {theirs}/"
      )
    elif ours != T5_TOKENIZER:
      names = {path.name for path in folders[ours].iterdir()}
      if not any(names >= files for files in _CLIP_FILES):
        notes.append(
          f"{ours} is incomplete: {folders[ours]} has neither tokenizer.json "
          "nor vocab.json with merges.txt"
        )
  return notes


def new_head_size(
  source: Checkpoint,
  config: MMDiTConfig,
  tokenizer: pathlib.Path | None,
  wanted: int | None,
) -> tuple[int, list[str]]:
  """Rows of the text head that D-DiT from SD3 gets, and how they were inferred.

  Args:
    source: the checkpoint.
    config: its network.
    tokenizer: folder of T5's tokenizer, or None.
    wanted: number of rows requested by the user, or None.

  Raises:
    InputError: the number cannot be inferred, or the tokenizer has another
      number of ids.
  """
  if wanted is not None or tokenizer is not None:
    size = wanted or tokenizer_size(tokenizer)
    check_head(size, tokenizer)
    return size, []
  table = None
  if "text_encoder" in source.networks:
    table = source.networks["text_encoder"].tensors.get("shared.weight")
  if table is not None:
    rows = table.shape[0]
    size = _PADDED_VOCABULARIES.get(rows, rows)
    why = f"T5's embedding table has {rows} rows"
  elif config.context_dim == _T5_XXL_WIDTH:
    size, why = _T5_XXL_IDS, "text features are as wide as T5-XXL's"
  else:
    raise InputError(
      f"{source.path} holds neither a tokenizer nor T5, so the number of rows "
      "of the text head is unknown: give --tokenizer=FOLDER or --vocab_size=N"
    )
  return size, [
    f"text head of {size} rows because {why}; --tokenizer=FOLDER or "
    "--vocab_size=N overrides it"
  ]


def check_head(vocab_size: int, tokenizer: pathlib.Path | None) -> None:
  """Raises InputError unless the tokenizer, if any, has as many ids."""
  if tokenizer is None:
    return
  size = tokenizer_size(tokenizer)
  if size != vocab_size:
    raise InputError(
      f"the text head has {vocab_size} rows but the tokenizer in {tokenizer} "
      f"has {size} ids: they must agree; use the tokenizer of this checkpoint"
    )


@functools.cache
def tokenizer_size(folder: pathlib.Path) -> int:
  """The number of ids of T5's tokenizer, as training and sampling read it.

  Raises:
    InputError: the folder cannot be read, or the mask token is not the last
      id, as D-DiT needs.
  """
  with preparing():
    return pretrained_tokenizer("t5", folder).vocab_size
