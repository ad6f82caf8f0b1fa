"""`ddit prepare --cache`: encoder outputs instead of copied images."""

import pathlib

from absl import flags

from ddit_jax.cli.train import join_cluster
from ddit_jax.cli.verb_flags import require
from ddit_jax.config.load import load
from ddit_jax.errors import InputError

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


def define(values: flags.FlagValues) -> None:
  """The flags that only --cache takes."""

  def text(name, help_text):
    flags.DEFINE_string(name, None, help_text, flag_values=values)

  text(
    "cache",
    "write a cache of the frozen encoders' outputs: latents, or latents,t5",
  )
  text("config", "with --cache: config file, FILE.py[:variant]")
  text("stream", "with --cache: text_to_image or image_to_text")
  flags.DEFINE_integer(
    "rows_per_device",
    None,
    "with --cache: images or texts that a device encodes at once; as in a "
    "training step if unset, at most 32",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "distributed",
    False,
    "with --cache: join the other processes of a cluster job",
    flag_values=values,
  )


def refuse_without_cache(
  values: flags.FlagValues, overrides: dict[str, str]
) -> None:
  """Raises InputError for flags that copying images does not use."""
  given = [name for name in _CACHING if values[name].present]
  given += [f"config.{key}" for key in overrides]
  if given:
    raise InputError(
      f"--{given[0]} is for caches: add --cache=latents, or describe the "
      "source with --kind and --path"
    )


def run(
  values: flags.FlagValues, overrides: dict[str, str], make_progress
) -> int:
  """Writes the caches of one stream and says what they hold."""
  require(values, "config", "stream", "out")
  for name in _COPYING:
    if values[name].present:
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
  written = write_caches(settings, request, make_progress)
  for name, manifest in written.items():
    print(summary(manifest, pathlib.Path(values.out) / name))
  print(f"to train on them: --config.data.{values.stream}.cache={values.out}")
  return 0


def summary(manifest, folder: pathlib.Path) -> str:
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
