"""Which tokenizer folders a converted checkpoint gets, and which it lacks."""

import pathlib
from collections.abc import Mapping

from ddit_jax.conversion.layouts import Source
from ddit_jax.conversion.mapping import LAYOUTS

T5_TOKENIZER = "tokenizer"
# Our folder -> its name beside SD3 as diffusers stores it.
SD3_TOKENIZERS = {
  ours: theirs
  for ours, theirs in LAYOUTS["sd3_folder"].plain_folders.items()
  if ours.startswith(T5_TOKENIZER)
}
# Either is a whole CLIP tokenizer.
_CLIP_FILES = ({"tokenizer.json"}, {"vocab.json", "merges.txt"})


def tokenizer_folders(
  source: Source, given: pathlib.Path | None
) -> dict[str, pathlib.Path]:
  """Our folder -> the one that is copied.

  Args:
    source: the checkpoint; what it has is taken.
    given: replaces it: a folder of T5's tokenizer, or one that holds SD3's
      three, `tokenizer`, `tokenizer_2` and `tokenizer_3`; None for neither.
  """
  folders = {
    name: folder
    for name, folder in source.plain_folders.items()
    if name in SD3_TOKENIZERS
  }
  if given is None:
    return folders
  if not (given / SD3_TOKENIZERS[T5_TOKENIZER]).is_dir():
    return folders | {T5_TOKENIZER: given}
  return folders | {
    ours: given / theirs
    for ours, theirs in SD3_TOKENIZERS.items()
    if (given / theirs).is_dir()
  }


def tokenizer_notes(folders: Mapping[str, pathlib.Path]) -> list[str]:
  """What plain SD3 would need of tokenizers and does not get, a line each."""
  notes = []
  for ours, theirs in SD3_TOKENIZERS.items():
    if ours not in folders:
      notes.append(
        f"{ours} is not in the source: to sample SD3 give --tokenizer=FOLDER "
        f"with its {theirs}/"
      )
    elif ours != T5_TOKENIZER and not _is_whole_clip(folders[ours]):
      notes.append(
        f"{ours} is incomplete: {folders[ours]} has neither tokenizer.json nor "
        "vocab.json with merges.txt"
      )
  return notes


def _is_whole_clip(folder: pathlib.Path) -> bool:
  names = {path.name for path in folder.iterdir()}
  return any(names >= files for files in _CLIP_FILES)
