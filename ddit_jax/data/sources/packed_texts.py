"""Full rows of tokens: every document, an end token, the next document."""

import collections
import functools
import hashlib
import itertools
import json
import logging
import os
import pathlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
from jaxtyping import Int, Int32

from ddit_jax.data.example import BadRecord, Example, Source
from ddit_jax.data.sources.paths import LruCache, file_facts, index_folder
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.files import appearing_file
from ddit_jax.json_files import file_hash, read_sealed, sealed

_BATCH, _THREADS = 1024, 8
# Neighbouring rows share documents.
_KEPT_DOCUMENTS = 64
_MAX_JSON_BYTES = 2**20
_CACHE = "packed_texts"

_log = logging.getLogger(__name__)


class PackedTexts:
  """Rows of tokens, cut where a row is full.

  A document may continue in the next row. Only token counts are stored, 8 bytes
  per document, memory-mapped; reading a row tokenizes its documents again.
  That is deterministic, and suits documents that are not much longer than a
  row. Documents that cannot be read, have no token, or contain the end or mask
  token (bad_text: training would misread it) are skipped.

  Attributes:
    name: name in the config.
    removed: reason to the number of documents skipped.
    num_tail_tokens: tokens after the last full row, which are dropped.
  """

  name: str
  removed: Mapping[str, int]
  num_tail_tokens: int

  def __init__(
    self,
    documents: Source,
    tokenizer: Tokenizer,
    *,
    length: int,
    index_folder: pathlib.Path,
  ):
    """Counts tokens, or reads the stored counts.

    Args:
      documents: of which the first text is used.
      tokenizer: called from several threads.
      length: tokens in a row.
      index_folder: where token counts are stored.

    Raises:
      ValueError: the length is not positive, or the documents fill no row.
    """
    if type(length) is not int or length < 1:
      raise ValueError(f"length must be a positive number, not {length!r}")
    self.name = documents.name
    self._documents, self._tokenizer = documents, tokenizer
    self._length = length
    self._digest = _digest(documents, tokenizer)
    self._path = index_folder / f"packed-{self._digest}.npy"
    self.removed = self._counted()
    num_tokens = int(self._ends[-1]) if len(self._ends) else 0
    self._num_rows, self.num_tail_tokens = divmod(num_tokens, length)
    if not self._num_rows:
      raise ValueError(
        f"{self.name} has {num_tokens} tokens, which fill no row of {length}; "
        f"documents skipped: {dict(self.removed)}"
      )
    _log.info(
      "%s: %d rows of %d tokens, skipped %s and the last %d tokens",
      *(self.name, self._num_rows, length),
      *(dict(self.removed), self.num_tail_tokens),
    )
    self._recent = LruCache(self._tokens, capacity=_KEPT_DOCUMENTS)

  def __getstate__(self):
    return {k: v for k, v in vars(self).items() if k != "_ends"}

  def __len__(self) -> int:
    return self._num_rows

  def __getitem__(self, index: int) -> Int32[np.ndarray, " length"]:
    """One row, int32 [length].

    Raises:
      BadRecord: wrong_length, if a document no longer has as many tokens as
        when they were counted; or any error of reading it.
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
        some = tokens[start + filled - first :][: self._length - filled]
        row[filled : filled + len(some)] = some
        filled += len(some)
      document += 1
    return row

  def fingerprint(self) -> str:
    """Digest of documents, tokenizer and length."""
    return f"{self._digest}-{self._length}"

  @functools.cached_property
  def _ends(self) -> Int[np.ndarray, " documents"]:
    """Tokens up to and with each document, int64."""
    ends = np.load(self._path, mmap_mode="r", allow_pickle=False)
    if ends.shape != (len(self._documents),) or ends.dtype != np.int64:
      raise ValueError(f"{self._path} is damaged: remove it")
    return np.asarray(ends)

  def _span(self, document: int) -> tuple[int, int]:
    """Where a document's tokens begin and end."""
    first = self._ends[document - 1] if document else 0
    return int(first), int(self._ends[document])

  def _tokens(self, document: int) -> Int32[np.ndarray, " tokens"]:
    """A document's tokens with its end token."""
    example = self._documents[document]
    ids = self._tokenizer.encode(example.texts[0])
    ids = [*ids, self._tokenizer.end_id]
    first, end = self._span(document)
    if len(ids) != end - first:
      raise BadRecord(
        "wrong_length",
        f"{len(ids)} tokens instead of {end - first}: text or tokenizer have "
        "changed since they were counted",
        example.record_id,
      )
    return np.array(ids, np.int32)

  def _counted(self) -> dict[str, int]:
    """Skipped documents; counts all tokens on first use, or if damaged."""
    if self._path.exists() and self._report.exists():
      try:
        return self._read_report()
      except ValueError as error:
        _log.warning("tokens are counted again: %s", error)
    _log.info("counting tokens of %d documents", len(self._documents))
    with appearing_file(self._path) as file:
      removed = self._count(file)
    body = {"removed": removed, "counts": file_hash(self._path)}
    # Written last: if it exists, so does the other file.
    with appearing_file(self._report) as file:
      file.write(sealed(body))
    return self._read_report()

  @property
  def _report(self) -> pathlib.Path:
    return self._path.with_suffix(".json")

  def _read_report(self) -> dict[str, int]:
    """Raises ValueError unless both files are as they were written."""
    for path in (self._report, self._path):
      file_facts(path)
    body = read_sealed(self._report, max_bytes=_MAX_JSON_BYTES)
    if body["counts"] != file_hash(self._path):
      raise ValueError(f"{self._path} is damaged: its hash is another one")
    return body["removed"]

  def _count(self, file: BinaryIO) -> dict[str, int]:
    """Writes a .npy file; returns what is skipped."""
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
    """Tokens of a document with its end token, or why it is skipped."""
    try:
      text = self._documents[document].texts[0]
    except BadRecord as error:
      return error.reason
    ids, tokenizer = self._tokenizer.encode(text), self._tokenizer
    if not {tokenizer.end_id, tokenizer.mask_id}.isdisjoint(ids):
      return "bad_text"
    return len(ids) + 1 if len(ids) else "empty_text"


class PackedDocuments:
  """A source of documents, and of the rows of tokens made from them.

  As a source it yields the documents themselves, because a word tokenizer is
  built from them before there can be rows.

  Attributes:
    name: name in the config.
    removed: reason to the number of documents skipped.
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
      folder: of the documents.
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
    """Digest of the documents."""
    return self._documents.fingerprint()

  def rows(self, tokenizer: Tokenizer, length: int) -> PackedTexts:
    """Rows of `length` tokens; the first time, all tokens are counted.

    Raises:
      ValueError: the documents fill no row, or their token counts cannot
        be stored anywhere.
    """
    key = _digest(self._documents, tokenizer), length
    if key in self._rows:
      return self._rows[key]
    try:
      folder = index_folder(self._folder, self._wanted, cache=_CACHE)
      rows = PackedTexts(
        self._documents, tokenizer, length=length, index_folder=folder
      )
    except OSError as error:
      raise ValueError(
        f"{self.name}: its token counts cannot be stored: {error}; set "
        "index_folder of this source"
      ) from error
    self._rows[key] = rows
    return rows


def _digest(documents: Source, tokenizer: Tokenizer) -> str:
  """Changes with the documents or the tokenizer."""
  files = hashlib.blake2b(digest_size=16)
  for name, data in sorted(tokenizer.files().items()):
    files.update(f"{name} {len(data)}\n".encode())
    files.update(data)
  key = [documents.fingerprint(), len(documents), files.hexdigest()]
  key += [tokenizer.end_id, tokenizer.mask_id]
  body = json.dumps(key).encode()
  return hashlib.blake2b(body, digest_size=16).hexdigest()
