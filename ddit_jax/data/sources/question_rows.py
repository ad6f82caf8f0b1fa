"""Collects questions with their answers for a source of files."""

import collections
import logging
from typing import Any

from ddit_jax.data.sources import sample_texts
from ddit_jax.data.sources.file_source import FileSource
from ddit_jax.data.sources.question_prompts import question_prompt
from ddit_jax.data.sources.record_table import FileRecord, RecordTable
from ddit_jax.data.sources.safe_files import SafeFolder, is_unsafe
from ddit_jax.data.sources.sample_texts import TextError

_log = logging.getLogger(__name__)


class QuestionRows:
  """Questions so far, and what was left out.

  Attributes:
    removed: reason to the number of questions left out.
  """

  def __init__(self, name: str, *, instruction: str = ""):
    """Args are the source's name, and what each prompt ends with."""
    if not isinstance(instruction, str):
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
      record_id: for logs; the same one a second time is left out.
      question: a text.
      answers: a text or a list of texts; blank ones are left out and counted
        in a warning.
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
      ValueError: there is none.
    """
    if self._num_blank:
      _log.warning("%s: %d blank answers left out", self._name, self._num_blank)
    return FileSource(
      self._name, self._table, images=images, removed=self.removed
    )

  def _append(
    self, record_id: str, question: Any, answers: Any, image: Any
  ) -> str | None:
    if record_id in self._seen:
      return "duplicate_id"
    self._seen.add(record_id)
    sample_texts.clean_text(record_id)
    question = sample_texts.clean_text(question)
    given = answers if isinstance(answers, list) else [answers]
    texts = sample_texts.clean_texts(given)
    if image is not None:
      image = sample_texts.clean_text(image)
      if is_unsafe(image):
        return "unsafe_path"
    if not question or not texts:
      return "empty_text"
    self._num_blank += len(given) - len(texts)
    prompt = question_prompt(question, self._instruction)
    self._table.append(FileRecord(record_id, image, prompt, texts))
    return None
