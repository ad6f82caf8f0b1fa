"""dataset.json of a cache: what it was made from, and its shards.

It is written last, so a folder without it is not finished.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ddit_jax.data.caches.array_layout import ArrayLayout
from ddit_jax.data.durable_files import read_json_object, replace_file
from ddit_jax.data.prepared_folder import (
  FILE_NAME,
  SHARD_SUFFIX,
  Shard,
  check_shards,
  fingerprint,
)

FORMAT = "ddit_jax encoder outputs in ArrayRecord"
VERSION = 1

_MAX_FILE_BYTES = 2**28


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
