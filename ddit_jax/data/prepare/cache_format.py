"""One example of a cache of latents as bytes.

Version 1, all numbers little-endian:

  offset 0   4 bytes   magic b"DDLC"
  offset 4   uint16    version, 1
  offset 6   uint16    0
  offset 8   uint32    T, length of the text part in bytes
  offset 12  uint64    M, length of the moments in bytes; 0 without
  offset 20  T bytes   JSON object with exactly the keys of `CachedRecord`,
                       `moments` left out; keys sorted, no blanks, ASCII
  then       M bytes   the moments, whose shape and dtype dataset.json says

The record ends there. Equal examples have equal bytes.
"""

import dataclasses
import json
import math
import os
import pathlib
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from ddit_jax.data.example import BadRecord
from ddit_jax.data.prepare.shards import (
  FILE_NAME,
  SHARD_SUFFIX,
  Shard,
  UnfinishedFolder,
  check_shards,
  file_hash,
  fingerprint,
)
from ddit_jax.files import read_json_object, replace_file

VERSION = 1

_MAGIC = b"DDLC"
_HEADER = struct.Struct("<4sHHIQ")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachedRecord:
  """What a cache keeps of one record of a source.

  Attributes:
    record_id: where it came from.
    prompt: given text.
    texts: texts to learn.
    rewritten: rewritten captions.
    feature_entries: where the features of each of `texts`, then of
      `rewritten`, lie in the shard of features; None for a text that no
      stream can use. () without features.
    bad_record: (reason, detail) if the source could not read it, else None.
    bad_image: (reason, detail) if only its image cannot be used.
    moments: of its image; None without an image that can be used.
  """

  record_id: str
  prompt: str = ""
  texts: tuple[str, ...] = ()
  rewritten: tuple[str, ...] = ()
  feature_entries: tuple[int | None, ...] = ()
  bad_record: tuple[str, str] | None = None
  bad_image: tuple[str, str] | None = None
  moments: bytes | None = None


_FIELDS = {f.name for f in dataclasses.fields(CachedRecord)} - {"moments"}
_TUPLES = ("texts", "rewritten", "feature_entries")
_REASONS = ("bad_record", "bad_image")


def encode(record: CachedRecord) -> bytes:
  """The bytes of one record."""
  fields = {name: getattr(record, name) for name in _FIELDS}
  # ASCII, as JSON can escape half a character, which UTF-8 cannot hold.
  text = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
  moments = record.moments or b""
  header = _HEADER.pack(_MAGIC, VERSION, 0, len(text), len(moments))
  return b"".join((header, text, moments))


def decode(data: bytes, where: str) -> CachedRecord:
  """The record that `encode` made the bytes of.

  Args:
    data: one whole record.
    where: its shard and number, for errors.

  Raises:
    BadRecord: corrupt_shard.
  """
  try:
    magic, version, zero, text_length, num_bytes = _HEADER.unpack_from(data)
    begin = _HEADER.size + text_length
    if (magic, version, zero) != (_MAGIC, VERSION, 0):
      raise ValueError(f"starts with {data[:8]!r}")
    if len(data) != begin + num_bytes:
      raise ValueError(f"{len(data)} bytes instead of {begin + num_bytes}")
    fields = json.loads(data[_HEADER.size : begin])
    fields |= {name: tuple(fields[name]) for name in _TUPLES}
    fields |= {
      name: None if fields[name] is None else tuple(fields[name])
      for name in _REASONS
    }
    return CachedRecord(**fields, moments=data[begin:] or None)
  except (KeyError, TypeError, ValueError, struct.error) as error:
    detail = f"{type(error).__name__}: {' '.join(str(error).split())}"
    raise BadRecord("corrupt_shard", detail, where) from error


# What encoders may compute in. Stored little-endian, the last axis fastest.
_DTYPES = {
  "float32": np.dtype(np.float32),
  "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclasses.dataclass(frozen=True)
class ArrayLayout:
  """How an array of a cache is stored.

  Attributes:
    shape: of one record's array.
    dtype: "float32" or "bfloat16".
  """

  shape: tuple[int, ...]
  dtype: str

  def __post_init__(self):
    if self.dtype not in _DTYPES:
      raise ValueError(f"dtype must be one of {[*_DTYPES]}, got {self.dtype!r}")
    if not all(type(n) is int and n > 0 for n in self.shape):
      raise ValueError(f"{self.shape} is no shape of positive sizes")

  @property
  def num_bytes(self) -> int:
    """Size of one array."""
    return math.prod(self.shape) * _DTYPES[self.dtype].itemsize

  def pack(self, array: np.ndarray) -> bytes:
    """The bytes of an array of this shape.

    Raises:
      ValueError: another shape, or this dtype does not hold its numbers.
    """
    if array.shape != self.shape:
      raise ValueError(f"an array {array.shape} where {self.shape} is stored")
    stored = np.ascontiguousarray(array, _DTYPES[self.dtype])
    if array.dtype != stored.dtype:
      kept = stored.astype(array.dtype)
      if not np.array_equal(kept, array, equal_nan=True):
        raise ValueError(
          f"{array.dtype} numbers that {self.dtype} does not hold exactly"
        )
    return stored.tobytes()

  def unpack(self, data: bytes) -> np.ndarray:
    """The array of some bytes; it is read-only.

    Raises:
      ValueError: another number of bytes.
    """
    if len(data) != self.num_bytes:
      raise ValueError(f"{len(data)} bytes instead of {self.num_bytes}")
    return np.frombuffer(data, _DTYPES[self.dtype]).reshape(self.shape)

  def zeros(self) -> np.ndarray:
    """An array of zeros."""
    return np.zeros(self.shape, _DTYPES[self.dtype])


BAD_RECORDS_NAME = "bad_records.jsonl"

_MAX_FILE_BYTES = 2**28


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedPart:
  """The shards of one range of the source, and what became of its records.

  Attributes:
    shards: of latents; and of features, if there are any.
    bad_records: {"index", "record_id", "reason", "detail"} of each.
    bad_texts: reason to number of texts without features.
    num_texts: texts with features.
    num_truncated: of them, those that were cut.
  """

  shards: tuple[Shard, ...]
  bad_records: tuple[Mapping[str, Any], ...]
  bad_texts: Mapping[str, int]
  num_texts: int
  num_truncated: int


def part_names(part: int, num_parts: int, has_features: bool) -> list[str]:
  """ "latents-00002-of-00016.array_record", and that of "features"."""
  kinds = ("latents", "features") if has_features else ("latents",)
  return [f"{k}-{part:05d}-of-{num_parts:05d}{SHARD_SUFFIX}" for k in kinds]


def written_shard(path: pathlib.Path, num_records: int) -> Shard:
  """What a file holds that was just written; waits for the disk."""
  with open(path, "rb") as file:
    os.fsync(file.fileno())
  return Shard(
    name=path.name,
    num_records=num_records,
    num_bytes=path.stat().st_size,
    blake2b=file_hash(path),
  )


def finish_part(folder: UnfinishedFolder, finished: FinishedPart) -> None:
  """Moves shards that lie at their `partial_path` to their places."""
  report = json.dumps(dataclasses.asdict(finished), sort_keys=True)
  names = [shard.name for shard in finished.shards]
  # A report that is lost or damaged only costs writing the shards again.
  replace_file(
    _report_path(folder, names[0]), report.encode(), survives_power_loss=False
  )
  for name in names:
    os.replace(folder.partial_path(name), folder.folder / name)


def finished_part(
  folder: UnfinishedFolder, names: Iterable[str]
) -> FinishedPart | None:
  """What `finish_part` was told, or None if these shards must be written."""
  names = list(names)
  path = _report_path(folder, names[0])
  if not path.is_file():
    return None
  try:
    body = read_json_object(path, max_bytes=_MAX_FILE_BYTES)
    shards = tuple(Shard(**shard) for shard in body.pop("shards"))
    bad = tuple(body.pop("bad_records"))
    finished = FinishedPart(shards=shards, bad_records=bad, **body)
    sizes = [(folder.folder / name).stat().st_size for name in names]
  except (KeyError, TypeError, ValueError, FileNotFoundError):
    return None
  expected = [(shard.name, shard.num_bytes) for shard in shards]
  is_there = expected == list(zip(names, sizes, strict=True))
  return finished if is_there else None


def list_bad_records(
  folder: UnfinishedFolder, entries: Iterable[Mapping[str, Any]]
) -> None:
  """Writes bad_records.jsonl."""
  lines = [json.dumps(entry, sort_keys=True) for entry in entries]
  # This also makes the names of the shards survive a power loss.
  replace_file(
    folder.folder / BAD_RECORDS_NAME,
    "".join(f"{line}\n" for line in lines).encode(),
  )


def _report_path(folder: UnfinishedFolder, name: str) -> pathlib.Path:
  return folder.partial_path(f"{name}.json")


FORMAT = "ddit_jax encoder outputs in ArrayRecord"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentsOrigin:
  """All that decides the moments of a source's images.

  Attributes:
    source: fingerprint of the source.
    num_records: of the source.
    autoencoder: hash of its weights and configuration.
    encoder_dtype: of its weights and computation.
    image_size: side of the square images, in pixels.
    image_transform: how files become squares, in words.
  """

  source: str
  num_records: int
  autoencoder: str
  encoder_dtype: str
  image_size: int
  image_transform: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeaturesOrigin:
  """All that decides the features of a source's texts.

  Attributes:
    text_encoder: hash of its weights and configuration.
    encoder_dtype: of its weights and computation.
    tokenizer: hash of its files.
    text_length: tokens of every text.
  """

  text_encoder: str
  encoder_dtype: str
  tokenizer: str
  text_length: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachePlan:
  """All that decides which bytes are written.

  Attributes:
    latents: where moments come from.
    features: where features come from; None without features.
    moments: shape and dtype of one image's.
    feature: shape and dtype of one text's; None without features.
    num_shards: files of each kind.
    rows_per_device: images or texts that one device encodes at once, on which
      the last bits may depend.
  """

  latents: LatentsOrigin
  features: FeaturesOrigin | None
  moments: ArrayLayout
  feature: ArrayLayout | None
  num_shards: int
  rows_per_device: int

  def as_json(self) -> dict[str, Any]:
    """What `plan_from_json` takes."""
    return dataclasses.asdict(self)

  def flat(self) -> dict[str, Any]:
    """Dotted name to value, for comparing plans."""
    flat = {}
    for name, value in self.as_json().items():
      if isinstance(value, dict):
        flat |= {f"{name}.{key}": inner for key, inner in value.items()}
      else:
        flat[name] = value
    # JSON knows no tuples.
    return json.loads(json.dumps(flat))


def plan_from_json(body: Mapping[str, Any]) -> CachePlan:
  """Raises KeyError, TypeError or ValueError for what is no plan."""

  def layout(name):
    given = body[name]
    return given and ArrayLayout(tuple(given["shape"]), given["dtype"])

  features = body["features"]
  return CachePlan(
    latents=LatentsOrigin(**body["latents"]),
    features=features and FeaturesOrigin(**features),
    moments=layout("moments"),
    feature=layout("feature"),
    num_shards=body["num_shards"],
    rows_per_device=body["rows_per_device"],
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheManifest:
  """The contents of dataset.json.

  Attributes:
    plan: what decided the bytes.
    latents: shards of `CachedRecord`s, in order.
    features: shards of features, as many; () without features.
    bad_records: reason to number of records whose image cannot be used.
    bad_texts: reason to number of texts that have no features.
    num_texts: texts with features.
    num_truncated: of them, those longer than the text length.
  """

  plan: CachePlan
  latents: tuple[Shard, ...]
  features: tuple[Shard, ...]
  bad_records: Mapping[str, int]
  bad_texts: Mapping[str, int]
  num_texts: int
  num_truncated: int

  @property
  def shards(self) -> tuple[Shard, ...]:
    """All files."""
    return (*self.latents, *self.features)

  @property
  def num_bytes(self) -> int:
    """Size of all files."""
    return sum(shard.num_bytes for shard in self.shards)


def write_manifest(folder: pathlib.Path, manifest: CacheManifest) -> None:
  """Writes dataset.json in one rename."""
  body = {
    "format": FORMAT,
    "format_version": VERSION,
    "fingerprint": fingerprint(manifest.shards),
  } | dataclasses.asdict(manifest)
  text = json.dumps(body, indent=1, sort_keys=True) + "\n"
  replace_file(folder / FILE_NAME, text.encode())


def read_manifest(folder: str | os.PathLike) -> CacheManifest:
  """What dataset.json says; the shards are not looked at.

  Raises:
    ValueError: no such file, another format, or damaged contents.
  """
  path = pathlib.Path(folder) / FILE_NAME
  if not path.is_file():
    raise ValueError(
      f"{folder} has no {FILE_NAME}: it is not a cache that ddit prepare "
      "finished; run ddit prepare --cache again to finish it"
    )
  body = read_json_object(path, max_bytes=_MAX_FILE_BYTES)
  version = body.get("format_version")
  if body.get("format") != FORMAT or version != VERSION:
    raise ValueError(
      f"{path} is {body.get('format')!r} version {version!r}, this program "
      f"reads {FORMAT!r} version {VERSION}: write the cache anew"
    )
  try:
    manifest = CacheManifest(
      plan=plan_from_json(body["plan"]),
      latents=tuple(Shard(**shard) for shard in body["latents"]),
      features=tuple(Shard(**shard) for shard in body["features"]),
      **{name: body[name] for name in ("bad_records", "bad_texts")},
      **{name: body[name] for name in ("num_texts", "num_truncated")},
    )
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{path} is damaged ({type(error).__name__}: {error}): write the cache "
      "anew"
    ) from error
  if body.get("fingerprint") != fingerprint(manifest.shards):
    raise ValueError(f"{path} was changed: write the cache anew")
  return manifest


def check_files(folder: pathlib.Path, manifest: CacheManifest) -> None:
  """Raises ValueError if shards are missing or have another size."""
  found = [path.name for path in folder.glob(f"*{SHARD_SUFFIX}")]
  check_shards(folder, manifest.shards, found=found)


def differences(found: Any, wanted: Any) -> list[str]:
  """ "image_size 256 instead of 512" of two origins of the same kind."""
  found, wanted = dataclasses.asdict(found), dataclasses.asdict(wanted)
  return [
    f"{name} {found[name]!r} instead of {value!r}"
    for name, value in wanted.items()
    if found[name] != value
  ]
