"""`ddit prepare`."""

import argparse
import math
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from ddit_jax.cli.commands import join_cluster
from ddit_jax.cli.flags import Flag, Verb
from ddit_jax.config.load import load
from ddit_jax.errors import InputError, preparing

_DESCRIPTION = """
Copies a data set of images and texts into ArrayRecord shards, which are read
fastest in any order and need no index. Images can be shrunk on the way, which
saves most of the time that loading takes during training.

  ddit prepare --kind=parquet --path=laion/data --out=data/laion \\
    --short_side=256
  ddit prepare --source=vqa.json --out=data/vqa

The file --source holds one JSON object, the same mapping that a config gives
for a source: {"kind": "webdataset", "path": "shards/*.tar", ...}. Its filters
hold, those that a kind has by default included; with --kind and --path only
--max_ratio and --min_short_side do.

The folder --out receives the shards, bad_records.jsonl and, last,
dataset.json. A run that was stopped or killed goes on when it is started again
with the same flags.

With --cache it writes what the frozen encoders of a config make of one of its
streams, so that training on data.STREAM.cache=FOLDER need not encode it:

  ddit prepare --cache=latents,t5 --config=configs/ddit_sd3.py:stage1 \\
    --config.data.text_to_image.crop=centre --stream=text_to_image \\
    --out=cache/stage1
"""

_MAX_SPEC_BYTES = 2**20
# Flags that only make sense for copied images.
_COPYING = (
  "source",
  "kind",
  "path",
  "short_side",
  "jpeg_quality",
  "max_ratio",
  "min_short_side",
)
# Flags that only make sense for a cache.
_CACHING = ("config", "stream", "rows_per_device", "distributed")

_FLAGS = {
  "source": Flag("JSON file that describes the source"),
  "kind": Flag("kind of the source, in place of --source"),
  "path": Flag("where the source lies, together with --kind"),
  "out": Flag("new folder for the shards, or one to go on with"),
  "shards": Flag("files to write; one for every 8192 records if unset", int),
  "short_side": Flag("shrink larger images to this short side, in pixels", int),
  "jpeg_quality": Flag("of shrunk images, 1 to 100", int, 95),
  "max_ratio": Flag("leave out images of a larger ratio of sides", float),
  "min_short_side": Flag(
    "leave out images smaller than this, in pixels", int, 0
  ),
  "max_bad_rate": Flag(
    "stop if more records than this share are bad", float, 0.01
  ),
  "threads": Flag("shards written at once; one a core if unset", int),
  "cache": Flag(
    "write a cache of the frozen encoders' outputs: latents, or latents,t5"
  ),
  "config": Flag("with --cache: config file, FILE.py[:variant]"),
  "stream": Flag("with --cache: text_to_image or image_to_text"),
  "rows_per_device": Flag(
    "with --cache: images or texts that a device encodes at once; as in a "
    "training step if unset, at most 32",
    int,
  ),
  "distributed": Flag(
    "with --cache: join the other processes of a cluster job", bool, False
  ),
}


def _run(values: argparse.Namespace, overrides: dict[str, str]) -> int:
  if values.cache is not None:
    return _write_caches(values, overrides)
  _refuse_without_cache(values, overrides)
  VERB.require(values, "out")
  name, spec = _source_spec(values)
  from ddit_jax.data.prepare.prepare import PrepareOptions, prepare
  from ddit_jax.data.prepare.shards import PrepareError
  from ddit_jax.data.sources.registry import keys_of, open_source

  given = {"max_ratio": values.max_ratio, "num_shards": values.shards}
  with preparing():
    options = PrepareOptions(
      short_side=values.short_side,
      jpeg_quality=values.jpeg_quality,
      min_short_side=values.min_short_side,
      **{key: value for key, value in given.items() if value is not None},
    )
    if not values.source and "filters" in keys_of(values.kind):
      # Without a file, the flags alone say what is left out.
      spec = spec | {"filters": {"max_ratio": math.inf, "min_short_side": 0}}
    source = open_source(name, spec)
  try:
    dataset = prepare(
      source,
      values.out,
      options,
      threads=values.threads,
      max_bad_rate=values.max_bad_rate,
      progress=ProgressLines(sys.stderr),
    )
  except (PrepareError, OSError) as error:
    raise InputError(str(error)) from error
  print(summary(dataset, values.out))
  return 0


def summary(dataset, out: str) -> str:
  """What a person wants to know of a `PreparedDataset`."""
  from ddit_jax.data.bad_records import named_counts
  from ddit_jax.data.prepare.prepare import BAD_RECORDS_NAME

  bad = "none"
  if dataset.bad_records:
    total = sum(dataset.bad_records.values())
    counts = named_counts(dataset.bad_records)
    path = pathlib.Path(out) / BAD_RECORDS_NAME
    bad = f"{total:,} ({counts}), listed in {path}"
  files = (
    "1 shard" if len(dataset.shards) == 1 else f"{len(dataset.shards)} shards"
  )
  return (
    f"{out}: {dataset.num_records:,} records in {files}, "
    f"{dataset.num_bytes / 1e9:.3g} GB\n"
    f"left out by filters: {named_counts(dataset.removed) or 'none'}\n"
    f"bad records left out: {bad}"
  )


class ProgressLines:
  """One line every few seconds: share done, speed, time left."""

  def __init__(
    self,
    stream: TextIO,
    *,
    seconds_between_lines: float = 10.0,
    clock=time.monotonic,
  ):
    """Starts to measure at the first call."""
    self._stream, self._clock = stream, clock
    self._seconds = seconds_between_lines
    self._first: tuple[float, int] | None = None
    self._last_line_at = 0.0

  def __call__(self, done: int, total: int) -> None:
    """Prints a line if one is due, for `done` of `total` records."""
    now = self._clock()
    if self._first is None:
      self._first, self._last_line_at = (now, done), now
    if now - self._last_line_at < self._seconds:
      return
    self._last_line_at = now
    begin, done_then = self._first
    rate = (done - done_then) / (now - begin)
    line = f"{done:,} of {total:,} records, {rate:,.0f} records/s"
    if rate:
      from ddit_jax.monitor.progress import format_duration

      line += f", {format_duration((total - done) / rate)} left"
    print(line, file=self._stream, flush=True)


def _source_spec(
  values: argparse.Namespace,
) -> tuple[str, Mapping[str, Any]]:
  """(name, mapping for `open_source`) from --source, or --kind and --path."""
  if not values.source:
    if not values.kind and not values.path:
      raise InputError(
        "--source is missing: a JSON file that describes the source, or give "
        "--kind and --path"
      )
    VERB.require(values, "kind", "path")
    return values.kind, {"kind": values.kind, "path": values.path}
  if values.kind or values.path:
    raise InputError(
      "--source and --kind or --path are given: write the kind and the path "
      f"into {values.source}, or leave out --source"
    )
  path = pathlib.Path(values.source)
  if not path.is_file():
    raise InputError(f"--source={path} is no file: give a JSON file")
  from ddit_jax.files import read_json_object

  with preparing():
    return path.stem, read_json_object(path, max_bytes=_MAX_SPEC_BYTES)


def _refuse_without_cache(
  values: argparse.Namespace, overrides: dict[str, str]
) -> None:
  """Raises InputError for flags that copying images does not use."""
  given = [name for name in _CACHING if name in values.given]
  given += [f"config.{key}" for key in overrides]
  if given:
    raise InputError(
      f"--{given[0]} is for caches: add --cache=latents, or describe the "
      "source with --kind and --path"
    )


def _write_caches(values: argparse.Namespace, overrides: dict[str, str]) -> int:
  """Writes the caches of one stream and says what they hold."""
  VERB.require(values, "config", "stream", "out")
  for name in _COPYING:
    if name in values.given:
      raise InputError(
        f"--{name} is for copying images: with --cache the config says what "
        "is read"
      )
  from ddit_jax.experiment.config import Config

  settings = load(Config, values.config, overrides)
  if values.distributed:
    join_cluster()
  from ddit_jax.experiment.data import CacheRequest
  from ddit_jax.experiment.write_cache import write_caches

  request = CacheRequest(
    stream=values.stream,
    parts=tuple(values.cache.split(",")),
    out=values.out,
    rows_per_device=values.rows_per_device,
    num_shards=values.shards,
    max_bad_rate=values.max_bad_rate,
    threads=values.threads,
  )
  written = write_caches(settings, request, lambda: ProgressLines(sys.stderr))
  for name, manifest in written.items():
    print(cache_summary(manifest, pathlib.Path(values.out) / name))
  print(f"to train on them: --config.data.{values.stream}.cache={values.out}")
  return 0


def cache_summary(manifest, folder: pathlib.Path) -> str:
  """What a person wants to know of a `CacheManifest`."""
  from ddit_jax.data.bad_records import named_counts
  from ddit_jax.data.prepare.cache_format import BAD_RECORDS_NAME

  bad = "none"
  if manifest.bad_records:
    counts = named_counts(manifest.bad_records)
    bad = f"{counts}, listed in {folder / BAD_RECORDS_NAME}"
  lines = [
    f"{folder}: latents of {manifest.plan.latents.num_records:,} records, "
    f"{manifest.num_bytes / 1e9:.3g} GB",
    f"bad records, replaced in training: {bad}",
  ]
  if manifest.plan.features is not None:
    unusable = named_counts(manifest.bad_texts) or "none"
    lines.append(
      f"features of {manifest.num_texts:,} texts, {manifest.num_truncated:,} "
      f"of them cut; texts that cannot be used: {unusable}"
    )
  return "\n".join(lines)


VERB = Verb(
  name="prepare",
  summary="copy a data set into shards that load fast",
  description=_DESCRIPTION,
  flags=_FLAGS,
  run=_run,
)
