"""Records that point to image files, in memory without an object each."""

import array
import hashlib
import json
from typing import NamedTuple


class FileRecord(NamedTuple):
  """One example whose image is a file.

  Attributes:
    record_id: for logs.
    image: path below the source's folder, or None.
    prompt: given text.
    texts: texts to learn.
    rewritten: rewritten captions.
  """

  record_id: str
  image: str | None
  prompt: str
  texts: tuple[str, ...]
  rewritten: tuple[str, ...] = ()


class RecordTable:
  """Records as JSON behind each other: their text and 8 bytes each.

  Ten million Python objects would cost gigabytes more and slow every pass of
  the garbage collector.
  """

  def __init__(self):
    self._text = bytearray()
    self._ends = array.array("Q")

  def __len__(self) -> int:
    return len(self._ends)

  def __getitem__(self, index: int) -> FileRecord:
    """Raises IndexError outside 0..len-1."""
    if not 0 <= index < len(self):
      raise IndexError(f"there are {len(self)} records, not {index}")
    start = self._ends[index - 1] if index else 0
    fields = json.loads(self._text[start : self._ends[index]])
    record_id, image, prompt, texts, rewritten = fields
    return FileRecord(record_id, image, prompt, tuple(texts), tuple(rewritten))

  def append(self, record: FileRecord) -> None:
    """Adds a record at the end; not while others read."""
    self._text += json.dumps(record, ensure_ascii=False).encode()
    self._ends.append(len(self._text))

  def digest(self) -> str:
    """Hex digest of all records."""
    digest = hashlib.blake2b(self._ends.tobytes(), digest_size=16)
    digest.update(self._text)
    return digest.hexdigest()
