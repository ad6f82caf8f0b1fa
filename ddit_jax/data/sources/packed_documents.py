"""Documents that training sees as full rows of tokens."""

import hashlib
import os
import pathlib
from collections.abc import Mapping

from ddit_jax.data.examples import Example, Source
from ddit_jax.data.sources.index_folders import index_folder
from ddit_jax.data.sources.packed_texts import PackedTexts
from ddit_jax.data.tokenizer import Tokenizer

_CACHE = "packed_texts"


class PackedDocuments:
  """A source of documents, and of the rows that a tokenizer makes of them.

  As a source it gives the documents themselves: a word tokenizer is made of
  them before there can be rows.

  Attributes:
    name: as the config calls it.
    removed: reason to the number of documents left out.
    has_images: False.
  """

  name: str
  removed: Mapping[str, int]
  has_images = False

  def __init__(
    self,
    documents: Source,
    *,
    folder: pathlib.Path,
    wanted_index_folder: str | os.PathLike | None,
  ):
    """Counts no tokens yet.

    Args:
      documents: of which the first text is used.
      folder: where they lie.
      wanted_index_folder: see `index_folder`.
    """
    self.name, self.removed = documents.name, documents.removed
    self._documents = documents
    self._folder, self._wanted = folder, wanted_index_folder
    self._rows: dict[tuple[str, int], PackedTexts] = {}

  def __len__(self) -> int:
    return len(self._documents)

  def __getitem__(self, index: int) -> Example:
    """One document; raises what the documents raise."""
    return self._documents[index]

  def fingerprint(self) -> str:
    """Of the documents."""
    return self._documents.fingerprint()

  def rows(self, tokenizer: Tokenizer, length: int) -> PackedTexts:
    """Rows of `length` tokens; the first time, all tokens are counted.

    Raises:
      ValueError: the documents fill no row, or their numbers of tokens cannot
        be kept anywhere.
    """
    key = _encoder_id(tokenizer), length
    if key not in self._rows:
      self._rows[key] = self._counted(tokenizer, *key)
    return self._rows[key]

  def _counted(
    self, tokenizer: Tokenizer, encoder_id: str, length: int
  ) -> PackedTexts:
    try:
      return PackedTexts(
        self._documents,
        tokenizer.encode,
        encoder_id=encoder_id,
        end_id=tokenizer.end_id,
        mask_id=tokenizer.mask_id,
        length=length,
        index_folder=index_folder(self._folder, self._wanted, cache=_CACHE),
      )
    except OSError as error:
      raise ValueError(
        f"{self.name}: its numbers of tokens cannot be kept: {error}; set "
        "index_folder of this source"
      ) from error


def _encoder_id(tokenizer: Tokenizer) -> str:
  """Changes whenever the tokenizer does."""
  digest = hashlib.blake2b(digest_size=16)
  for name, data in sorted(tokenizer.files().items()):
    digest.update(f"{name} {len(data)}\n".encode())
    digest.update(data)
  return digest.hexdigest()
