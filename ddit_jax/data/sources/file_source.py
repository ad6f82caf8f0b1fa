"""A source whose records are in memory and whose images are files."""

from collections.abc import Mapping

from ddit_jax.data.examples import Example
from ddit_jax.data.filters import with_hint
from ddit_jax.data.sources.record_table import RecordTable
from ddit_jax.data.sources.safe_files import SafeFolder


class FileSource:
  """Image-text pairs or questions, read one image file at a time.

  Attributes:
    name: as the config calls it.
    removed: reason to the number of records left out.
  """

  name: str
  removed: Mapping[str, int]

  def __init__(
    self,
    name: str,
    table: RecordTable,
    *,
    images: SafeFolder,
    removed: Mapping[str, int],
  ):
    """Takes over a complete table.

    Args:
      name: as the config calls it.
      table: of records whose images lie below `images`.
      images: their folder.
      removed: reason to the number of records that are not in the table.

    Raises:
      ValueError: the table is empty.
    """
    self.name, self.removed = name, dict(removed)
    self._table, self._images = table, images
    self._digest = table.digest()
    if not len(table):
      left_out = with_hint(self.removed)
      raise ValueError(
        f"no record can be used; left out: {left_out or 'none, it is empty'}"
      )

  def __len__(self) -> int:
    return len(self._table)

  def __getitem__(self, index: int) -> Example:
    """One example.

    Raises:
      BadRecord: unsafe_path, missing_file, unreadable_file, image_too_large.
      IndexError: index outside 0..len-1.
    """
    record = self._table[index]
    image = None
    if record.image is not None:
      image = self._images.read(record.image, record.record_id)
    return Example(
      record_id=record.record_id,
      image=image,
      prompt=record.prompt,
      texts=record.texts,
      rewritten=record.rewritten,
    )

  def fingerprint(self) -> str:
    """Digest of all texts and image names, wherever the folder lies."""
    return self._digest
