"""The weight files of one network's folder: which of them to read."""

import pathlib
import re

from ddit_jax.conversion.errors import ConversionError, named
from ddit_jax.conversion.foreign import PICKLE_SUFFIXES, refuse_pickle
from ddit_jax.conversion.safetensors_files import (
  INDEX_SUFFIX,
  StoredTensor,
  read_header,
  read_shards,
)

# In names of files that hold the same tensors once more, e.g.
# model.fp16.safetensors.
_VARIANT = re.compile(r"\.(fp16|fp32|bf16|non_ema|ema)[.-]")


def read_component(
  folder: pathlib.Path,
) -> tuple[dict[str, StoredTensor], list[str]]:
  """The tensors of a folder, and notes on files that were not read.

  Args:
    folder: holds one file, or shards and their index; variants beside them,
      e.g. in half precision, are not read.

  Raises:
    ConversionError: it is not clear which files to read, there are none, or
      one is damaged.
  """
  files = sorted(folder.glob("*.safetensors"))
  indices = sorted(folder.glob("*.safetensors.index*.json"))
  main_files = [f for f in files if not _VARIANT.search(f.name)]
  main_indices = [f for f in indices if not _VARIANT.search(f.name)]
  if not main_files and not main_indices:
    main_files, main_indices = files, indices
  if len(main_indices) == 1:
    tensors = read_shards(main_indices[0])
  elif len(main_files) == 1 and not main_indices:
    tensors = read_header(main_files[0])
  else:
    _refuse_weights(folder, [*main_indices, *main_files])
  used = {tensor.file for tensor in tensors.values()}
  if stray := [f.name for f in main_files if f not in used]:
    raise ConversionError(
      f"{folder} also holds {named(stray)}, which its index does not list: "
      "remove what does not belong there"
    )
  notes = [
    f"{f} was not read: another variant of the same tensors"
    for f in files
    if f not in used
  ]
  return tensors, notes


def _refuse_weights(folder: pathlib.Path, found: list[pathlib.Path]) -> None:
  if found:
    raise ConversionError(
      f"{folder} holds {named(f.name for f in found)}: keep one file, or one "
      f"NAME{INDEX_SUFFIX} with its shards"
    )
  for entry in sorted(folder.iterdir()):
    if entry.suffix in PICKLE_SUFFIXES:
      refuse_pickle(entry)
  raise ConversionError(f"{folder} holds no .safetensors file: fetch it")
