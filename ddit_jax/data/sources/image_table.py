"""A source whose records are in memory and whose images are files."""

import array
import collections
import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from ddit_jax.data.example import Example
from ddit_jax.data.image_header import with_hint
from ddit_jax.data.sources.annotations import (
  TextError,
  clean_text,
  clean_texts,
)
from ddit_jax.data.sources.paths import SafeFolder, is_unsafe
from ddit_jax.data.text import question_prompt

_log = logging.getLogger(__name__)


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
  """Concatenated JSON records: their text and 8 bytes each.

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


class FileSource:
  """Image-text pairs or questions, read one image file at a time.

  Attributes:
    name: name in the config.
    removed: reason to the number of records that were skipped.
    instruction: see `data.example.instruction_of`.
  """

  name: str
  removed: Mapping[str, int]
  instruction: str | None

  def __init__(
    self,
    name: str,
    table: RecordTable,
    *,
    images: SafeFolder,
    removed: Mapping[str, int],
    instruction: str | None = None,
  ):
    """Takes ownership of a complete table.

    Args:
      name: name in the config.
      table: records whose images are below `images`.
      images: their folder.
      removed: reason to the number of records that are not in the table.
      instruction: of all its prompts, if they have one in common.

    Raises:
      ValueError: the table is empty.
    """
    self.name, self.removed = name, dict(removed)
    self.instruction = instruction
    self._table, self._images = table, images
    self._digest = table.digest()
    if not len(table):
      skipped = with_hint(self.removed)
      raise ValueError(
        f"no record can be used; skipped: {skipped or 'none, it is empty'}"
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
    """Digest of all texts and image names, independent of the location."""
    return self._digest


class QuestionRows:
  """Questions so far, and what was skipped.

  Attributes:
    removed: reason to the number of questions skipped.
  """

  def __init__(self, name: str, *, instruction: str | None = None):
    """Takes the source's name and the end of each prompt.

    None, unlike "", says that the questions have their own instructions.
    """
    if not isinstance(instruction, str | None):
      raise ValueError(f"instruction must be a text, not {instruction!r}")
    self.removed: collections.Counter = collections.Counter()
    self._name, self._instruction = name, instruction
    self._table, self._num_blank = RecordTable(), 0
    self._seen: set = set()

  def add(
    self, record_id: str, *, question: Any, answers: Any, image: Any
  ) -> None:
    """Adds a question, or counts why it cannot be used.

    Args:
      record_id: for logs; duplicates are skipped.
      question: a text.
      answers: a text or a list of texts; blank ones are skipped and counted in
        a warning.
      image: path below the images' folder; None for text only.
    """
    try:
      reason = self._append(record_id, question, answers, image)
    except TextError as error:
      reason = error.reason
    if reason:
      self.removed[reason] += 1

  def source(self, images: SafeFolder) -> FileSource:
    """All questions, with the folder of their images.

    Raises:
      ValueError: there are none.
    """
    if self._num_blank:
      _log.warning("%s: %d blank answers skipped", self._name, self._num_blank)
    return FileSource(
      self._name,
      self._table,
      images=images,
      removed=self.removed,
      instruction=self._instruction,
    )

  def _append(
    self, record_id: str, question: Any, answers: Any, image: Any
  ) -> str | None:
    if record_id in self._seen:
      return "duplicate_id"
    self._seen.add(record_id)
    clean_text(record_id)
    question = clean_text(question)
    given = answers if isinstance(answers, list) else [answers]
    texts = clean_texts(given)
    if image is not None:
      image = clean_text(image)
      if is_unsafe(image):
        return "unsafe_path"
    if not question or not texts:
      return "empty_text"
    self._num_blank += len(given) - len(texts)
    prompt = question_prompt(question, self._instruction or "")
    self._table.append(FileRecord(record_id, image, prompt, texts))
    return None
