"""Documents of text without images: .txt, JSON lines, or parquet."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from ddit_jax.data.example import BadRecord, Example, Source
from ddit_jax.data.sources import annotations, paths
from ddit_jax.data.sources.annotations import TextError
from ddit_jax.data.sources.packed_texts import PackedDocuments
from ddit_jax.data.sources.parquet import open_parquet
from ddit_jax.data.sources.paths import ChangedFile, OpenFiles, PathSpec
from ddit_jax.json_files import text_encoding

_DOCUMENTS = ("file", "line")

_SUFFIXES = (".txt", ".jsonl", ".parquet")
_MAX_DOCUMENT_BYTES = 2**28
_CHUNK_BYTES = 2**24
_LINE_FEED, _CARRIAGE_RETURN = b"\n\r"


class _PlainTexts:
  """Documents, read in place; 16 bytes of memory each.

  Attributes:
    name: name in the config.
    removed: {"empty_text": empty lines or files}.
    has_images: False.
  """

  name: str
  removed: Mapping[str, int]
  has_images = False

  def __init__(
    self,
    name: str,
    files: Sequence[pathlib.Path],
    *,
    documents: str,
    text_key: str | None,
  ):
    """Finds where documents begin and end.

    Args:
      name: name in the config.
      files: at least one.
      documents: "file" or "line".
      text_key: of the text in a line's JSON object; None for plain text.

    Raises:
      ValueError: a file cannot be read, or there is no document.
    """
    self.name, self._text_key = name, text_key
    self._facts, spans, num_empty = [], [], 0
    for file in files:
      facts = paths.file_facts(file)
      try:
        found = (
          _line_spans(file)
          if documents == "line"
          else np.array([[0, facts.num_bytes]])
        )
      except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from error
      is_empty = found[:, 0] == found[:, 1]
      num_empty += int(is_empty.sum())
      spans.append(found[~is_empty])
      self._facts.append(facts)
    self.removed = {"empty_text": num_empty} if num_empty else {}
    self._spans = np.concatenate(spans)
    self._ends = np.cumsum([len(found) for found in spans])
    self._open = OpenFiles(files, self._facts)
    if not len(self):
      raise ValueError(f"there is no document in {files[0]} and its like")
    self._description = f"{documents} {text_key}"

  def __len__(self) -> int:
    return len(self._spans)

  def __getitem__(self, index: int) -> Example:
    """One document; its record_id is "file:byte where it begins".

    Raises:
      BadRecord: missing_file, unreadable_file (or the file has changed),
        wrong_length (over 256 MiB), bad_text, bad_json or empty_text.
      IndexError: index outside 0..len-1.
    """
    if not 0 <= index < len(self):
      raise IndexError(f"{self.name} has {len(self)} records, not {index}")
    number = int(np.searchsorted(self._ends, index, side="right"))
    start, stop = self._spans[index].tolist()
    record_id = f"{self._facts[number].name}:{start}"
    if stop - start > _MAX_DOCUMENT_BYTES:
      raise BadRecord("wrong_length", f"{stop - start} bytes", record_id)
    try:
      text = self._text(self._open[number].read(start, stop - start))
    except (TextError, ChangedFile, OSError) as error:
      reason = paths.reason_of(error, changed="unreadable_file")
      raise BadRecord(reason, str(error), record_id) from error
    if not text:
      raise BadRecord("empty_text", "only blanks", record_id)
    return Example(record_id=record_id, image=None, texts=(text,))

  def fingerprint(self) -> str:
    """Digest of the files' names, sizes and times, and of the options."""
    return paths.files_fingerprint(self._description, self._facts)

  def _text(self, data: bytes) -> str:
    if self._text_key is None:
      return annotations.text_of_bytes(data)
    fields = annotations.parse_object(data)
    if self._text_key not in fields:
      raise TextError("bad_json", f"there is no {self._text_key!r}")
    return annotations.clean_text(fields[self._text_key])


def open_plain_text(
  name: str,
  *,
  path: PathSpec,
  documents: str = "file",
  text_key: str = "text",
  is_packed: bool = False,
  index_folder: str | None = None,
) -> Source:
  """Opens texts without images.

  Args:
    name: name in the config.
    path: files that all end in .txt, .jsonl or .parquet; see
      `paths.list_files`.
    documents: what a document is in .txt: a "file", or a "line"; in the others
      it is a line or row.
    text_key: of the text in a line's object, or a parquet column.
    is_packed: True trains on full rows of tokens: every document, an end token,
      the next document, cut where a row is full. False gives each document a
      separate row, truncated or padded.
    index_folder: where packing keeps the documents' token counts; by
      default their folder, or, where that cannot be written,
      ~/.cache/ddit_jax/packed_texts.

  Raises:
    ValueError: a file is missing, suffixes are mixed or unknown, or there is
      no document.
  """
  if not isinstance(is_packed, bool):
    raise ValueError(f"is_packed is True or False, not {is_packed!r}")
  if index_folder is not None and not is_packed:
    raise ValueError("index_folder is only used where is_packed is True")
  if documents not in _DOCUMENTS:
    raise ValueError(
      f"documents must be one of {_DOCUMENTS}, not {documents!r}"
    )
  files = paths.list_files(path, suffixes=_SUFFIXES)
  suffixes = sorted({file.suffix.lower() for file in files})
  if len(suffixes) != 1 or suffixes[0] not in _SUFFIXES:
    raise ValueError(
      f"path must name files of one kind, {' or '.join(_SUFFIXES)}, not "
      f"{suffixes}: choose with a pattern such as folder/*.txt"
    )
  is_json = suffixes[0] == ".jsonl"
  if suffixes[0] == ".parquet":
    found = _parquet(name, files, path, text_key)
  else:
    found = _PlainTexts(
      name,
      files,
      documents="line" if is_json else documents,
      text_key=text_key if is_json else None,
    )
  if not is_packed:
    return found
  folder = paths.shared_folder(files)
  return PackedDocuments(found, folder=folder, wanted_index_folder=index_folder)


def _parquet(
  name: str, files: Sequence[pathlib.Path], path: PathSpec, text_key: str
) -> Source:
  if not isinstance(path, str | os.PathLike) and len(files) > 1:
    raise ValueError("parquet texts need one path: a file, folder or pattern")
  return open_parquet(
    name, path=str(path), image_column=None, text_column=text_key
  )


def _check_bytes_of_lines(path: pathlib.Path) -> None:
  """Raises ValueError where a line feed is not one byte."""
  with open(path, "rb") as file:
    encoding = text_encoding(file.read(4))
  if not encoding.startswith("utf-8"):
    raise ValueError(
      f"{path} is {encoding.upper()}, lines are read from UTF-8: convert it "
      f"with iconv -f {encoding} -t utf-8"
    )


def _line_spans(path: pathlib.Path) -> Int[np.ndarray, "lines 2"]:
  """First byte of each line and the byte behind its last, int64."""
  _check_bytes_of_lines(path)
  starts, stops = [np.zeros(1, np.int64)], []
  offset, before = 0, b"\0"
  with open(path, "rb") as file:
    while chunk := file.read(_CHUNK_BYTES):
      data = np.frombuffer(before + chunk, np.uint8)
      at = np.flatnonzero(data[1:] == _LINE_FEED)
      # The byte before a line feed is one place to the left in `data`.
      stops.append(at + offset - (data[at] == _CARRIAGE_RETURN))
      starts.append(at + offset + 1)
      offset, before = offset + len(chunk), chunk[-1:]
  stops.append(np.array([offset]))
  spans = np.stack([np.concatenate(starts), np.concatenate(stops)], axis=1)
  # No line begins after the last line feed.
  return spans[:-1] if before in (b"\n", b"\0") else spans
