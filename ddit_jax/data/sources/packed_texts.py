"""Documents as one long row of tokens, cut into rows of fixed length."""

import collections
import hashlib
import itertools
import json
import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np

from ddit_jax.data.durable_files import read_json_object, replace_file
from ddit_jax.data.examples import BadRecord, Source
from ddit_jax.data.sources.partial_files import appearing_file
from ddit_jax.data.sources.recent_values import RecentValues

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
