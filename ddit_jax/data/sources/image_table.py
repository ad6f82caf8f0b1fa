"""A source whose records are in memory and whose images are files."""

import array
import collections
import hashlib
import json
import logging
from typing import Any, NamedTuple

from ddit_jax.data.example import REASONS, BadRecord, Example
from ddit_jax.data.image_header import with_hint
from ddit_jax.data.sources.annotations import (
  TextError,
  clean_text,
  clean_texts,
)
from ddit_jax.data.sources.paths import SafeFolder
from ddit_jax.data.text import question_prompt
from ddit_jax.errors import first_few
from ddit_jax.files import is_unsafe

_MAX_FAULTS, _NAMED_FAULTS = 1000, 3
_HINTS = {
  "no_text": "filters.drop_empty_captions=False keeps images without captions, "
  "for the image loss alone",
}

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


class Skipped:
  """What a source leaves out when it is opened.

  Attributes:
    removed: reason to the number of records.
    faults: the first records that cannot be used, as opposed to those that a
      filter removed.
  """

  def __init__(self):
    self.removed: collections.Counter[str] = collections.Counter()
    self.faults: list[BadRecord] = []

  def add(self, reason: str, record_id: str = "", detail: str = "") -> None:
    """Counts a record, and lists it if its data are at fault."""
    self.removed[reason] += 1
    if record_id and reason in REASONS and len(self.faults) < _MAX_FAULTS:
      self.faults.append(BadRecord(reason, detail, record_id))

  def __str__(self) -> str:
    """E.g. "2 no_text, 1 bad_text (a.txt: bad_text: not UTF-8)"."""
    hints = [hint for why, hint in _HINTS.items() if why in self.removed]
    named = [first_few(self.faults, limit=_NAMED_FAULTS)] if self.faults else []
    notes = "; ".join(named + hints)
    counts = with_hint(self.removed) or "none, it is empty"
    return f"{counts} ({notes})" if notes else counts


class FileSource:
  """Image-text pairs or questions, read one image file at a time.

  Attributes:
    name: name in the config.
    removed: reason to the number of records that were skipped.
    faults: the first of those that cannot be used.
    instruction: see `data.example.instruction_of`.
  """

  def __init__(
    self,
    name: str,
    table: RecordTable,
    *,
    images: SafeFolder,
    skipped: Skipped,
    instruction: str | None = None,
  ):
    """Takes ownership of a complete table.

    Args:
      name: name in the config.
      table: records whose images are below `images`.
      images: their folder.
      skipped: records that are not in the table.
      instruction: of all its prompts, if they have one in common.

    Raises:
      ValueError: the table is empty.
    """
    self.name, self.removed = name, dict(skipped.removed)
    self.faults = tuple(skipped.faults)
    self.instruction = instruction
    self._table, self._images = table, images
    self._digest = table.digest()
    if not len(table):
      raise ValueError(f"no record can be used; skipped: {skipped}")
    if self.faults:
      _log.warning("%s: skipped %s", name, skipped)

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

  def image_of(self, index: int) -> str | None:
    """The name of a record's image, which questions may share."""
    return self._table[index].image

  def fingerprint(self) -> str:
    """Digest of all texts and image names, independent of the location."""
    return self._digest


class QuestionRows:
  """Questions so far, and what was skipped.

  Attributes:
    skipped: questions that cannot be used.
  """

  def __init__(self, name: str, *, instruction: str | None = None):
    """Takes the source's name and the end of each prompt.

    None, unlike "", says that the questions have their own instructions.
    """
    if not isinstance(instruction, str | None):
      raise ValueError(f"instruction must be a text, not {instruction!r}")
    self.skipped = Skipped()
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
      self._append(record_id, question, answers, image)
    except TextError as error:
      self.skipped.add(error.reason, record_id, str(error))

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
      skipped=self.skipped,
      instruction=self._instruction,
    )

  def _append(
    self, record_id: str, question: Any, answers: Any, image: Any
  ) -> None:
    """Raises TextError."""
    if record_id in self._seen:
      raise TextError("duplicate_id", record_id)
    self._seen.add(record_id)
    clean_text(record_id)
    question = clean_text(question)
    given = answers if isinstance(answers, list) else [answers]
    texts = clean_texts(given)
    if image is not None:
      image = clean_text(image)
      if is_unsafe(image):
        raise TextError("unsafe_path", f"the image {image!r}")
    if not question or not texts:
      raise TextError("empty_text", "no question, or no answer")
    self._num_blank += len(given) - len(texts)
    prompt = question_prompt(question, self._instruction or "")
    self._table.append(FileRecord(record_id, image, prompt, texts))
