"""`ddit prepare`."""

import math
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from absl import flags

from ddit_jax.cli import prepare_cache
from ddit_jax.cli.verb_flags import Verb
from ddit_jax.cli.verb_flags import require as require_flags
from ddit_jax.errors import InputError, preparing

DESCRIPTION = """
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


def define(values: flags.FlagValues) -> None:
  def text(name, help_text):
    flags.DEFINE_string(name, None, help_text, flag_values=values)

  def whole(name, default, help_text):
    flags.DEFINE_integer(name, default, help_text, flag_values=values)

  def number(name, default, help_text):
    flags.DEFINE_float(name, default, help_text, flag_values=values)

  text("source", "JSON file that describes the source")
  text("kind", "kind of the source, in place of --source")
  text("path", "where the source lies, together with --kind")
  text("out", "new folder for the shards, or one to go on with")
  whole("shards", None, "files to write; one for every 8192 records if unset")
  whole(
    "short_side", None, "shrink larger images to this short side, in pixels"
  )
  whole("jpeg_quality", 95, "of shrunk images, 1 to 100")
  number("max_ratio", None, "leave out images of a larger ratio of sides")
  whole("min_short_side", 0, "leave out images smaller than this, in pixels")
  number("max_bad_rate", 0.01, "stop if more records than this share are bad")
  whole("threads", None, "shards written at once; one a core if unset")
  prepare_cache.define(values)


def run(values: flags.FlagValues, overrides: dict[str, str]) -> int:
  if values.cache is not None:
    return prepare_cache.run(
      values, overrides, lambda: ProgressLines(sys.stderr)
    )
  prepare_cache.refuse_without_cache(values, overrides)
  require_flags(values, "out")
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
  values: flags.FlagValues,
) -> tuple[str, Mapping[str, Any]]:
  """(name, mapping for `open_source`) from --source, or --kind and --path."""
  if not values.source:
    if not values.kind and not values.path:
      raise InputError(
        "--source is missing: a JSON file that describes the source, or give "
        "--kind and --path"
      )
    require_flags(values, "kind", "path")
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


VERB = Verb(
  name="prepare",
  summary="copy a data set into shards that load fast",
  description=DESCRIPTION,
  define=define,
  run=run,
)
