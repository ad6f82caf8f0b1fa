"""Documents of text without images: .txt, JSON lines, or parquet."""

import collections
import hashlib
import itertools
import json
import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, NamedTuple

import numpy as np

from ddit_jax.data.example import BadRecord, Example, Source
from ddit_jax.data.sources import annotations, paths
from ddit_jax.data.sources.annotations import TextError
from ddit_jax.data.sources.parquet import open_parquet
from ddit_jax.data.sources.paths import (
  ChangedFile,
  OpenFiles,
  PathSpec,
  RecentValues,
  index_folder,
)
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.files import appearing_file, read_json_object, replace_file

# Text to token ids, without an end token.
Encode = Callable[[str], Sequence[int]]

_BATCH, _THREADS = 1024, 8
# Neighbouring rows share documents.
_KEPT_DOCUMENTS = 64
_MAX_JSON_BYTES = 2**20

_log = logging.getLogger(__name__)


class PackedTexts:
  """Rows of tokens: every document, an end token, the next document.

  A document may go on in the next row. Only numbers of tokens are stored, 8
  bytes a document, memory-mapped; reading a row encodes its documents anew.
  That is deterministic, and suits documents that are not much longer than a
  row. Documents that cannot be read, have no token, or name the end or mask
  token (bad_text: training would take it for its own) are left out.

  Attributes:
    name: as the config calls it.
    removed: reason to the number of documents left out.
    num_tail_tokens: tokens behind the last full row, which are dropped.
  """

  name: str
  removed: Mapping[str, int]
  num_tail_tokens: int

  def __init__(
    self,
    documents: Source,
    encode: Encode,
    *,
    encoder_id: str,
    end_id: int,
    mask_id: int,
    length: int,
    index_folder: str | os.PathLike,
  ):
    """Counts tokens, or finds that this was done before.

    Args:
      documents: of which the first text is used.
      encode: called from several threads.
      encoder_id: changes whenever `encode` gives other tokens, e.g. a hash of
        the tokenizer's files.
      end_id: of the token behind each document.
      mask_id: of the token that no document may have either.
      length: tokens in a row.
      index_folder: where numbers of tokens are kept; made if not there.

    Raises:
      ValueError: the length is not positive, or the documents fill no row.
    """
    if type(length) is not int or length < 1:
      raise ValueError(f"length must be a positive number, not {length!r}")
    self.name = documents.name
    self._documents, self._encode = documents, encode
    self._end_id, self._length = end_id, length
    self._special_ids = {end_id, mask_id}
    key = [documents.fingerprint(), len(documents), encoder_id, end_id, mask_id]
    body = json.dumps(key).encode()
    self._digest = hashlib.blake2b(body, digest_size=16).hexdigest()
    folder = pathlib.Path(index_folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    self._ends, self.removed = self._counted(folder)
    num_tokens = int(self._ends[-1]) if len(self._ends) else 0
    self._num_rows, self.num_tail_tokens = divmod(num_tokens, length)
    if not self._num_rows:
      raise ValueError(
        f"{self.name} has {num_tokens} tokens, which fill no row of {length}; "
        f"documents left out: {dict(self.removed)}"
      )
    _log.info(
      "%s: %d rows of %d tokens, left out %s and the last %d tokens",
      *(self.name, self._num_rows, length),
      *(dict(self.removed), self.num_tail_tokens),
    )
    self._recent = RecentValues(self._tokens, capacity=_KEPT_DOCUMENTS)

  def __len__(self) -> int:
    return self._num_rows

  def __getitem__(self, index: int) -> np.ndarray:
    """One row, int32 [length].

    Raises:
      BadRecord: wrong_length, if a document no longer has as many tokens as
        when they were counted; or what reading it raises.
      IndexError: index outside 0..len-1.
    """
    if not 0 <= index < len(self):
      raise IndexError(f"{self.name} has {len(self)} rows, not {index}")
    row = np.empty(self._length, np.int32)
    start = int(index) * self._length
    document, filled = np.searchsorted(self._ends, start, side="right"), 0
    while filled < self._length:
      first, end = self._span(int(document))
      if end > first:
        tokens = self._recent[int(document)]
        piece = tokens[start + filled - first :][: self._length - filled]
        row[filled : filled + len(piece)] = piece
        filled += len(piece)
      document += 1
    return row

  def fingerprint(self) -> str:
    """Digest of documents, encoder, end token and length."""
    return f"{self._digest}-{self._length}"

  def _span(self, document: int) -> tuple[int, int]:
    """Where a document's tokens begin and end."""
    first = self._ends[document - 1] if document else 0
    return int(first), int(self._ends[document])

  def _tokens(self, document: int) -> np.ndarray:
    """A document's tokens with its end token, int32."""
    example = self._documents[document]
    ids = [*self._encode(example.texts[0]), self._end_id]
    first, end = self._span(document)
    if len(ids) != end - first:
      raise BadRecord(
        "wrong_length",
        f"{len(ids)} tokens instead of {end - first}: text or tokenizer have "
        "changed since they were counted",
        example.record_id,
      )
    return np.array(ids, np.int32)

  def _counted(self, folder: pathlib.Path) -> tuple[np.ndarray, dict[str, int]]:
    """Tokens up to and with each document, int64, and what was left out."""
    path = folder / f"packed-{self._digest}.npy"
    beside = path.with_suffix(".json")
    if not (path.exists() and beside.exists()):
      _log.info("counting tokens of %d documents", len(self._documents))
      with appearing_file(path) as file:
        removed = self._count(file)
        # The counts come last: where they are, the other file is.
        replace_file(beside, json.dumps({"removed": removed}).encode())
    ends = np.load(path, mmap_mode="r", allow_pickle=False)
    removed = read_json_object(beside, max_bytes=_MAX_JSON_BYTES)["removed"]
    if ends.shape != (len(self._documents),) or ends.dtype != np.int64:
      raise ValueError(f"{path} is damaged: remove it")
    return np.asarray(ends), removed

  def _count(self, file: BinaryIO) -> dict[str, int]:
    """Writes a .npy file; returns what was left out."""
    total, removed = 0, collections.Counter()
    shape = (len(self._documents),)
    np.lib.format.write_array_header_1_0(
      file, {"descr": "<i8", "fortran_order": False, "shape": shape}
    )
    numbers = iter(range(len(self._documents)))
    with ThreadPoolExecutor(_THREADS) as pool:
      while batch := list(itertools.islice(numbers, _BATCH)):
        counts = list(pool.map(self._num_tokens, batch))
        removed.update(count for count in counts if isinstance(count, str))
        known = [0 if isinstance(count, str) else count for count in counts]
        ends = total + np.cumsum(known, dtype=np.int64)
        total = int(ends[-1])
        file.write(ends.astype("<i8").tobytes())
    return dict(sorted(removed.items()))

  def _num_tokens(self, document: int) -> int | str:
    """Tokens of a document with its end token, or why it is left out."""
    try:
      text = self._documents[document].texts[0]
    except BadRecord as error:
      return error.reason
    ids = self._encode(text)
    if not self._special_ids.isdisjoint(ids):
      return "bad_text"
    return len(ids) + 1 if len(ids) else "empty_text"


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


DOCUMENTS = ("file", "line")

_SUFFIXES = (".txt", ".jsonl", ".parquet")
_MAX_DOCUMENT_BYTES = 2**28
_CHUNK_BYTES = 2**24
_LINE_FEED, _CARRIAGE_RETURN = b"\n\r"


class _File(NamedTuple):
  """One file when it was indexed."""

  path: pathlib.Path
  num_bytes: int
  mtime_ns: int


class PlainTexts:
  """Documents, read in place; 16 bytes of memory each.

  Attributes:
    name: as the config calls it.
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
      name: as the config calls it.
      files: at least one.
      documents: "file" or "line".
      text_key: of the text in a line's JSON object; None for plain text.

    Raises:
      ValueError: a file cannot be read, or there is no document.
    """
    self.name, self._text_key = name, text_key
    self._files, spans, num_empty = [], [], 0
    for path in files:
      status = paths.regular_file_status(path)
      try:
        found = (
          _line_spans(path)
          if documents == "line"
          else np.array([[0, status.st_size]])
        )
      except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
      is_empty = found[:, 0] == found[:, 1]
      num_empty += int(is_empty.sum())
      spans.append(found[~is_empty])
      self._files.append(_File(path, status.st_size, status.st_mtime_ns))
    self.removed = {"empty_text": num_empty} if num_empty else {}
    self._spans = np.concatenate(spans)
    self._ends = np.cumsum([len(found) for found in spans])
    self._open = OpenFiles(
      [file.path for file in self._files],
      [file.num_bytes for file in self._files],
    )
    if not len(self):
      raise ValueError(f"there is no document in {files[0]} and its like")
    self._description = f"{documents} {text_key}"

  def __len__(self) -> int:
    return len(self._spans)

  def __getitem__(self, index: int) -> Example:
    """One document; its record_id is "file:byte where it begins".

    Raises:
      BadRecord: missing_file, unreadable_file (it has changed, too),
        wrong_length (over 256 MiB), bad_text, bad_json or empty_text.
      IndexError: index outside 0..len-1.
    """
    if not 0 <= index < len(self):
      raise IndexError(f"{self.name} has {len(self)} records, not {index}")
    number = int(np.searchsorted(self._ends, index, side="right"))
    start, stop = self._spans[index].tolist()
    record_id = f"{self._files[number].path.name}:{start}"
    if stop - start > _MAX_DOCUMENT_BYTES:
      raise BadRecord("wrong_length", f"{stop - start} bytes", record_id)
    try:
      text = self._text(self._open[number].read(start, stop - start))
    except TextError as error:
      raise BadRecord(error.reason, str(error), record_id) from error
    except FileNotFoundError as error:
      raise BadRecord("missing_file", str(error), record_id) from error
    except (ChangedFile, OSError) as error:
      raise BadRecord("unreadable_file", str(error), record_id) from error
    if not text:
      raise BadRecord("empty_text", "only blanks", record_id)
    return Example(record_id=record_id, image=None, texts=(text,))

  def fingerprint(self) -> str:
    """Digest of the files' names, sizes and times, and of the settings."""
    digest = hashlib.blake2b(self._description.encode(), digest_size=16)
    for file in self._files:
      line = f"{file.path.name} {file.num_bytes} {file.mtime_ns}\n"
      digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()

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
    name: as the config calls it.
    path: files that all end in .txt, .jsonl or .parquet; see
      `paths.list_files`.
    documents: what a document is in .txt: a "file", or a "line"; in the others
      it is a line or row.
    text_key: of the text in a line's object, or a parquet column.
    is_packed: True trains on full rows of tokens: every document, an end token,
      the next document, cut where a row is full. False gives each document a
      row of its own, cut off or padded.
    index_folder: where packing keeps the documents' numbers of tokens; by
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
  if documents not in DOCUMENTS:
    raise ValueError(f"documents must be one of {DOCUMENTS}, not {documents!r}")
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
    found = PlainTexts(
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


def _line_spans(path: pathlib.Path) -> np.ndarray:
  """First byte of each line and the byte behind its last, int64 [lines, 2]."""
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
  # Behind a last line feed begins no line.
  return spans[:-1] if before in (b"\n", b"\0") else spans
