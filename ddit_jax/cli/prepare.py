"""`ddit prepare`: copies a data set into shards, or caches encoder outputs."""

import argparse
import contextlib
import math
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ddit_jax.cli import cluster, compilation_cache
from ddit_jax.cli.flags import Flag, Verb
from ddit_jax.config.load import load_config
from ddit_jax.errors import InputError, first_few, preparing

_DESCRIPTION = """
Copies a data set of images and texts into ArrayRecord shards, which are fastest
to read in any order and need no index. Images can be shrunk on the way, which
saves most of the loading time during training.

  ddit prepare --kind=parquet --path=laion/data --out=data/laion \\
    --short_side=256
  ddit prepare --source=vqa.json --out=data/vqa

The file --source holds one JSON object, the same mapping that a config gives
for a source: {"kind": "webdataset", "path": "shards/*.tar", ...}. Its filters
apply, including a kind's defaults; with --kind and --path only --max_ratio and
--min_short_side apply.

Writes the shards, bad_records.jsonl and, last, dataset.json to --out. A run
that was stopped or killed resumes when it is started again with the same flags.

With --cache it writes the outputs of a config's frozen encoders for the images
and texts of one of its tasks, so that training with data.TASK.cache=FOLDER need
not encode them:

  ddit prepare --cache=latents,t5 --config=configs/ddit_sd3.py:stage1 \\
    --config.data.text_to_image.crop=centre --task=text_to_image \\
    --out=cache/stage1
"""

_MAX_SPEC_BYTES = 2**20
_SECONDS_BEFORE_PROGRESS = 5.0

_ONLY_COPYING = (
  "source",
  "kind",
  "path",
  "short_side",
  "jpeg_quality",
  "max_ratio",
  "min_short_side",
)
_SHARED = cluster.FLAGS | compilation_cache.FLAGS
_ONLY_CACHING = ("config", "task", "rows_per_device", *_SHARED)


_FLAGS = {
  "source": Flag("JSON file that describes the source", is_path=True),
  "kind": Flag("kind of the source, in place of --source"),
  "path": Flag("path of the source, together with --kind", is_path=True),
  "out": Flag("new folder for the shards, or one to resume", is_path=True),
  "shards": Flag("files to write; one for every 8192 records if unset", int),
  "short_side": Flag("shrink larger images to this short side, in pixels", int),
  "jpeg_quality": Flag("of shrunk images, 1 to 100", int, 95),
  "max_ratio": Flag("skip images of a larger ratio of sides", float),
  "min_short_side": Flag("skip images smaller than this, in pixels", int, 0),
  "max_bad_rate": Flag(
    "stop if more than this fraction of records is bad", float, 0.01
  ),
  "threads": Flag("shards written at once; one per core if unset", int),
  "cache": Flag(
    "write a cache of the frozen encoders' outputs: latents, or latents,t5"
  ),
  "config": Flag("with --cache: config file, FILE.py[:variant]", is_path=True),
  "task": Flag("with --cache: text_to_image or image_to_text"),
  "rows_per_device": Flag(
    "with --cache: images or texts that a device encodes at once; as in a "
    "training step if unset, at most 32",
    int,
  ),
  **_SHARED,
}


def _run(values: argparse.Namespace, overrides: dict[str, str]) -> int:
  given = [name for name in _FLAGS if name in values.given]
  given += [f"config.{key}" for key in overrides]
  if values.cache is not None:
    return _write_caches(values, overrides, given)
  return _copy(values, given)


def _copy(values: argparse.Namespace, given: list[str]) -> int:
  """Copies the examples of a source."""
  for name in given:
    if name.partition(".")[0] in _ONLY_CACHING:
      raise InputError(
        f"--{name} is for caches: add --cache=latents, or describe the source "
        "with --kind and --path"
      )
  VERB.require(values, "out")
  name, spec = _source_spec(values)
  from ddit_jax.data.prepare.prepare import PrepareOptions, prepare
  from ddit_jax.data.sources.registry import keys_of, open_source

  optional = {"max_ratio": values.max_ratio, "num_shards": values.shards}
  with preparing():
    options = PrepareOptions(
      short_side=values.short_side,
      jpeg_quality=values.jpeg_quality,
      min_short_side=values.min_short_side,
      **{key: value for key, value in optional.items() if value is not None},
    )
    if not values.source and "filters" in keys_of(values.kind):
      # Without a file, the flags alone are the filters.
      spec = spec | {"filters": {"max_ratio": math.inf, "min_short_side": 0}}
    source = open_source(name, spec)
  try:
    with _progress_bar() as progress:
      manifest = prepare(
        source,
        values.out,
        options,
        threads=values.threads,
        max_bad_rate=values.max_bad_rate,
        progress=progress,
      )
  except OSError as error:
    raise InputError(str(error)) from error
  print(_copy_summary(manifest, values.out, getattr(source, "faults", ())))
  return 0


def _write_caches(
  values: argparse.Namespace, overrides: dict[str, str], given: list[str]
) -> int:
  """Writes the caches of one task's sources."""
  VERB.require(values, "config", "task", "out")
  for name in given:
    if name in _ONLY_COPYING:
      raise InputError(
        f"--{name} is for copying images: with --cache the config says what "
        "is read"
      )
  from ddit_jax.experiment.config import Config

  config = load_config(Config, values.config, overrides)
  cluster.join(values)
  compilation_cache.use(values)
  from ddit_jax.experiment.data import CacheRequest
  from ddit_jax.experiment.processes import leaving_together
  from ddit_jax.experiment.write_cache import write_caches

  request = CacheRequest(
    task=values.task,
    parts=tuple(values.cache.split(",")),
    out=values.out,
    rows_per_device=values.rows_per_device,
    num_shards=values.shards,
    max_bad_rate=values.max_bad_rate,
    threads=values.threads,
  )
  with leaving_together(), _progress_bar() as progress:
    written = write_caches(config, request, progress)
  for name, manifest in written.items():
    print(cache_summary(manifest, pathlib.Path(values.out) / name))
  print(f"to train on them: --config.data.{values.task}.cache={values.out}")
  return 0


def _copy_summary(manifest, folder: str, faults: Sequence[Any]) -> str:
  """A summary of a copy's `Manifest` and of what its source left out."""
  from ddit_jax.data.prepare.shard_writer import BAD_RECORDS_NAME

  num_shards = len(manifest.shards)
  lines = [
    f"{folder}: {manifest.num_records:,} records in {num_shards} "
    f"{'shard' if num_shards == 1 else 'shards'}, "
    f"{manifest.num_bytes / 1e9:.3g} GB",
    f"skipped by filters: {_counts(manifest.removed)}",
    f"bad records skipped: {_bad_records(manifest, folder)}",
  ]
  if faults:
    lines.append(
      f"left out because they cannot be used: {first_few(faults)}; listed in "
      f"{pathlib.Path(folder) / BAD_RECORDS_NAME}"
    )
  return "\n".join(lines)


def cache_summary(manifest, folder: pathlib.Path) -> str:
  """A summary of a cache's `Manifest`."""
  lines = [
    f"{folder}: latents of {manifest.source['num_records']:,} records, "
    f"{manifest.num_bytes / 1e9:.3g} GB",
    f"bad records, replaced in training: {_bad_records(manifest, folder)}",
  ]
  if features := manifest.of_kind("features"):
    prefix = "bad_texts/"
    bad_texts = {
      name.removeprefix(prefix): count
      for name, count in manifest.counts.items()
      if name.startswith(prefix)
    }
    lines.append(
      f"features of {sum(shard.num_records for shard in features):,} texts, "
      f"{manifest.counts.get('truncated_texts', 0):,} of them cut; texts that "
      f"cannot be used: {_counts(bad_texts)}"
    )
  return "\n".join(lines)


def _counts(counts: Mapping[str, int]) -> str:
  from ddit_jax.data.prepare.tally import named_counts

  return named_counts(counts) or "none"


def _bad_records(manifest, folder: str | pathlib.Path) -> str:
  """E.g. "3 (bad_json 2, missing_file 1), listed in FILE"."""
  from ddit_jax.data.prepare.shard_writer import BAD_RECORDS_NAME

  if not (total := sum(manifest.bad_records.values())):
    return "none"
  path = pathlib.Path(folder) / BAD_RECORDS_NAME
  return f"{total:,} ({_counts(manifest.bad_records)}), listed in {path}"


@contextlib.contextmanager
def _progress_bar() -> Iterator[Callable[[int, int], None]]:
  """A function to call with (records done, records in total) of a source."""
  from tqdm import tqdm

  is_terminal = sys.stderr.isatty()
  with tqdm(
    unit=" records",
    delay=_SECONDS_BEFORE_PROGRESS,
    mininterval=0.5 if is_terminal else 10.0,
    file=sys.stderr,
  ) as bar:

    def show(done: int, total: int) -> None:
      bar.total = total
      # Negative where the next source begins.
      bar.update(done - bar.n)

    yield show


def _source_spec(values: argparse.Namespace) -> tuple[str, Mapping[str, Any]]:
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
      f"into {values.source}, or remove --source"
    )
  path = pathlib.Path(values.source)
  if not path.is_file():
    raise InputError(f"--source={path} is not a file: give a JSON file")
  from ddit_jax.json_files import read_json_object

  with preparing():
    return path.stem, read_json_object(path, max_bytes=_MAX_SPEC_BYTES)


VERB = Verb(
  name="prepare",
  summary="copy a data set into shards that load fast",
  description=_DESCRIPTION,
  flags=_FLAGS,
  run=_run,
)
