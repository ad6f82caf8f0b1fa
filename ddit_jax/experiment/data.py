"""A run's data: its sources, or caches of their frozen encoders' outputs."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from ddit_jax.checkpoint.manifest import contents_digest
from ddit_jax.conversion.record import config_to_record, read_record
from ddit_jax.data.bad_records import ReadLog
from ddit_jax.data.config import DataConfig
from ddit_jax.data.crop_report import crop_report
from ddit_jax.data.example import Source, has_images
from ddit_jax.data.image import ImageTransform
from ddit_jax.data.prepare.cached_source import (
  CachedImageToTextTransform,
  CachedSource,
  CachedTextToImageTransform,
  StoredMoments,
)
from ddit_jax.data.prepare.shards import plan_differences
from ddit_jax.data.reader import Transform
from ddit_jax.data.source_records import mixed_sources
from ddit_jax.data.sources.registry import (
  SOURCE_KINDS,
  keys_of,
  open_source,
)
from ddit_jax.data.text import TextTransform
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.data.training_data import TrainingData
from ddit_jax.data.transforms import ImageToTextTransform, TextToImageTransform
from ddit_jax.errors import check_known
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.model_config import OF_ENCODERS
from ddit_jax.files import local_path
from ddit_jax.models.config import size
from ddit_jax.post_training.pairs import check_has_pairs

_TEXT_TO_IMAGE = "text_to_image"

# Change it together with `ImageTransform`, so older caches are rejected.
_IMAGE_TRANSFORMS = {
  "centre": "short side by antialiased bicubic, centre square, not mirrored",
  "pad": "long side by antialiased bicubic, on black, not mirrored",
}
_DIGEST_BYTES = 16


def _check_can_be_cached(config: Config, task: str) -> None:
  """Raises ValueError unless the task's images are deterministic."""
  given = config.data.tasks()[task]
  if not config.data.sources:
    raise ValueError(
      "a cache holds images of data.sources, and the digit world generates its "
      f"own: set data.{task}.cache='' or name data.sources"
    )
  if not config.model.encoders_from:
    raise ValueError(
      "a cache holds outputs of frozen encoders, and model.encoders_from is "
      f"empty: name converted weights, or set data.{task}.cache=''"
    )
  if given.crop not in _IMAGE_TRANSFORMS or given.flip_probability:
    raise ValueError(
      f"data.{task} has crop={given.crop!r} and flip_probability="
      f"{given.flip_probability}, but a cache holds each image once: set "
      f"data.{task}.crop=centre (or pad) and data.{task}.flip_probability=0.0, "
      f"or read the images with data.{task}.cache=''"
    )


def _takes_features(config: Config, task: str) -> bool:
  """Whether the task can use features of clean captions.

  Masked texts need the text encoder at each step, and some networks embed
  their tokens themselves.
  """
  if task != _TEXT_TO_IMAGE:
    return False
  if config.model.size != OF_ENCODERS:
    return size(config.model.size).context_dim is not None
  record = read_record(_encoders_folder(config))
  return record.configs["network"].context_dim is not None


def latents_origin(config: Config, task: str) -> dict[str, Any]:
  """All options that determine the moments of an image."""
  section = config.data.tasks()[task]
  return {
    "autoencoder": _encoder_digest(config, "vae"),
    "encoder_dtype": config.model.encoder_dtype,
    "image_size": section.image_size,
    "image_transform": _IMAGE_TRANSFORMS[section.crop],
  }


def features_origin(
  config: Config, task: str, tokenizer: Tokenizer
) -> dict[str, Any]:
  """All options that determine the features of a text."""
  files = {
    name: hashlib.blake2b(data).hexdigest()
    for name, data in tokenizer.files().items()
  }
  return {
    "text_encoder": _encoder_digest(config, "text_encoder"),
    "encoder_dtype": config.model.encoder_dtype,
    "has_int8_text_encoder": config.model.has_int8_text_encoder,
    "tokenizer": _digest(files),
    "text_length": config.data.tasks()[task].text_length,
  }


def _encoder_digest(config: Config, name: str) -> str:
  """Hash of an encoder's configuration and of its weights' manifest."""
  folder = _encoders_folder(config)
  shapes = config_to_record(read_record(folder).configs[name])
  return _digest([shapes, contents_digest(folder, name)])


def _encoders_folder(config: Config) -> pathlib.Path:
  return pathlib.Path(config.model.encoders_from)


def _digest(body: Any) -> str:
  text = json.dumps(body, sort_keys=True).encode()
  return hashlib.blake2b(text, digest_size=_DIGEST_BYTES).hexdigest()


LATENTS, T5 = "latents", "t5"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheRequest:
  """What `ddit prepare --cache` was asked for.

  Attributes:
    task: "text_to_image" or "image_to_text"; its mixture names the sources.
    parts: LATENTS, or LATENTS and T5.
    out: folder that receives one folder per source.
    rows_per_device: images or texts encoded at once; None takes as many as a
      device has in a training step, at most 32.
    num_shards: files of each kind and source; None chooses.
    max_bad_rate: fraction of a source's records that may be bad.
    threads: that read and decode; None uses one per core.
  """

  task: str
  parts: tuple[str, ...]
  out: str
  rows_per_device: int | None = None
  num_shards: int | None = None
  max_bad_rate: float = 0.01
  threads: int | None = None

  @property
  def has_features(self) -> bool:
    """True if T5's features are requested."""
    return T5 in self.parts

  def check(self, config: Config) -> None:
    """Raises ValueError unless the config's task supports this cache."""
    check_known([self.task], config.data.tasks(), what="--task has no")
    check_known(self.parts, (LATENTS, T5), what="--cache has no part")
    _check_can_be_cached(config, self.task)
    if LATENTS not in self.parts:
      raise ValueError(
        f"--cache={','.join(self.parts)} lacks latents, which every cache "
        "contains: write --cache=latents,t5"
      )
    if self.has_features and not _takes_features(config, self.task):
      raise ValueError(
        f"--cache requests t5, but {self.task} of this config takes no "
        "features of clean captions (masked texts are encoded at each step, "
        "and some networks embed tokens themselves): write --cache=latents"
      )
    self._check_numbers()

  def sources(
    self, config: Config, opened: Mapping[str, Source]
  ) -> dict[str, Source]:
    """Those of the task's mixture that have images, by name.

    Raises:
      ValueError: the mixture names unknown ones, or none has images.
    """
    task = config.data.tasks()[self.task]
    mixed = mixed_sources(self.task, task, opened)
    found = {name: one for name, one in mixed.items() if has_images(one)}
    if not found:
      raise ValueError(
        f"data.{self.task}.mixture names no source with images: nothing can be "
        "cached"
      )
    return found

  def _check_numbers(self) -> None:
    counts = {
      "rows_per_device": self.rows_per_device,
      "shards": self.num_shards,
      "threads": self.threads,
    }
    for name, count in counts.items():
      if count is not None and count < 1:
        raise ValueError(f"--{name} must be positive, got {count}")
    if not 0 <= self.max_bad_rate <= 1:
      raise ValueError(
        f"--max_bad_rate must be in 0..1, got {self.max_bad_rate}"
      )


def open_caches(
  config: Config,
  task: str,
  sources: Mapping[str, Source],
  tokenizer: Tokenizer,
) -> dict[str, Source]:
  """The sources of a task's mixture, those with images from its cache.

  Args:
    config: of the run.
    task: "text_to_image" or "image_to_text".
    sources: opened, by name.
    tokenizer: of the run.

  Raises:
    ValueError: the task cannot be cached, a source has no cache, or one was
      made from something else; the message names the difference.
  """
  _check_can_be_cached(config, task)
  section = config.data.tasks()[task]
  folder = local_path(section.cache)
  opened = mixed_sources(task, section, sources)
  for name, source in opened.items():
    if has_images(source):
      _check_is_there(config, task, folder / name)
      cached = CachedSource(name, folder / name, removed=source.removed)
      _check_origin(config, task, (source, cached), tokenizer)
      opened[name] = cached
  _check_alike(config, task, opened)
  return opened


def _task_transform(
  config: Config, task: str, cache: Mapping[str, Source], tokenizer: Tokenizer
) -> Transform:
  """Examples of a task to records.

  Args:
    config: of the run.
    task: "text_to_image" or "image_to_text".
    cache: from `open_caches`; {} reads images.
    tokenizer: of the run.
  """
  section = config.data.tasks()[task]
  texts = TextTransform(tokenizer=tokenizer, config=section)
  is_image_loss = task == _TEXT_TO_IMAGE
  caches = [s for s in cache.values() if isinstance(s, CachedSource)]
  if not caches:
    kind = TextToImageTransform if is_image_loss else ImageToTextTransform
    return kind(images=ImageTransform(config=section), texts=texts)
  images = StoredMoments(moments=caches[0].moments)
  if not is_image_loss:
    return CachedImageToTextTransform(images=images, texts=texts)
  feature = caches[0].feature if _takes_features(config, task) else None
  return CachedTextToImageTransform(images=images, texts=texts, feature=feature)


def _check_is_there(config: Config, task: str, folder: pathlib.Path) -> None:
  if not folder.is_dir():
    raise ValueError(
      f"data.{task}.mixture names {folder.name!r}, which has no cache in "
      f"{folder.parent}: {_way_out(config, task)}"
    )


def _check_origin(
  config: Config,
  task: str,
  pair: tuple[Source, CachedSource],
  tokenizer: Tokenizer,
) -> None:
  source, cached = pair
  differing = plan_differences(
    {"source": cached.fingerprint(), "num_records": len(cached)}
    | cached.options["latents"],
    {"source": source.fingerprint(), "num_records": len(source)}
    | latents_origin(config, task),
  )
  if cached.feature is not None and _takes_features(config, task):
    wanted = features_origin(config, task, tokenizer)
    differing += plan_differences(cached.options["features"], wanted)
  if differing:
    unique = ", ".join(dict.fromkeys(differing))
    raise ValueError(
      f"data.{task}.cache: that of {source.name!r} was made from something "
      f"else ({unique}): {_way_out(config, task)}"
    )


def _check_alike(
  config: Config, task: str, sources: Mapping[str, Source]
) -> None:
  """Raises if only some sources have features; a batch needs all or none."""
  if not _takes_features(config, task):
    return
  has_features = {
    name: source.feature is not None
    for name, source in sources.items()
    if isinstance(source, CachedSource)
  }
  if len(set(has_features.values())) > 1:
    without = [name for name, has_some in has_features.items() if not has_some]
    raise ValueError(
      f"data.{task}.cache has features of some sources, but none of "
      f"{without}: write all caches alike"
    )


def _way_out(config: Config, task: str) -> str:
  parts = "latents,t5" if _takes_features(config, task) else "latents"
  return (
    f"write a cache with ddit prepare --cache={parts} --task={task} "
    "--out=NEW_FOLDER and this config, or read the images with "
    f"data.{task}.cache=''"
  )


def open_sources(data: DataConfig) -> dict[str, Source]:
  """The sources of `data.sources`; their indexes are built if necessary.

  Raises:
    ValueError: one of them cannot be opened.
  """
  return {
    name: open_source(name, _with_filters(spec, data.filters))
    for name, spec in data.sources.items()
  }


def open_all_sources(
  data: DataConfig,
) -> tuple[dict[str, Source], dict[str, Source]]:
  """(`open_sources`, `open_validation_sources`)."""
  return open_sources(data), open_validation_sources(data)


def open_validation_sources(data: DataConfig) -> dict[str, Source]:
  """Those of `data.validation_sources`, like `open_sources`."""
  return {
    name: open_source(f"{name}_validation", _with_filters(spec, data.filters))
    for name, spec in data.validation_sources.items()
  }


def _with_filters(
  spec: Mapping[str, Any], filters: Mapping[str, Any]
) -> Mapping[str, Any]:
  """A source's mapping with `data.filters`, if it takes any and has none."""
  kind = spec.get("kind")
  if filters and kind in SOURCE_KINDS and "filters" in keys_of(kind):
    return {"filters": dict(filters), **spec}
  return spec


def _check_all_have_images(
  config: Config, sources: Mapping[str, Source]
) -> None:
  """Raises ValueError if a captioner would read texts without images."""
  mixed = mixed_sources("image_to_text", config.data.image_to_text, sources)
  for source in mixed.values():
    if not has_images(source):
      raise ValueError(
        f"source {source.name!r} has no images, and a captioner describes "
        "images: leave it out of data.image_to_text.mixture"
      )


def open_data(
  config: Config,
  tokenizer: Tokenizer,
  sources: Mapping[str, Source],
  workdir: pathlib.Path,
  validation_sources: Mapping[str, Source] | None = None,
) -> TrainingData:
  """The data of both tasks and of the validation batch.

  Args:
    config: of the run.
    tokenizer: of its texts.
    sources: from `open_sources`.
    workdir: where unreadable records are listed.
    validation_sources: from `open_validation_sources`; None opens them.

  Raises:
    ValueError: a mixture names unknown sources or is invalid; it has
      preference pairs and post-training takes none, or the other way round; a
      cache is missing or was made from something else.
  """
  for name, task in config.data.tasks_on().items():
    mixed = mixed_sources(name, task, sources) if sources else {}
    check_has_pairs(name, getattr(config.post_training, name).method, mixed)
  # Each process lists its own bad records.
  name = f"bad_records.{jax.process_index()}.jsonl"
  log = ReadLog(workdir / name, config.data)
  if not sources:
    return TrainingData.of_digits(
      config.data, tokenizer=tokenizer, seed=config.seed, log=log
    )
  if config.captioner.is_on:
    _check_all_have_images(config, sources)
  caches = {
    name: open_caches(config, name, sources, tokenizer)
    for name, task in config.data.tasks_on().items()
    if task.cache
  }
  transforms = {
    name: _task_transform(config, name, caches.get(name, {}), tokenizer)
    for name in config.data.tasks_on()
  }
  data = TrainingData.of_sources(
    config.data,
    sources,
    transforms=transforms,
    caches=caches,
    seed=config.seed,
    log=log,
    validation_sources=open_validation_sources(config.data)
    if validation_sources is None
    else validation_sources,
  )
  lines = [data.description, *crop_report(config.data, sources)]
  return dataclasses.replace(data, description="\n".join(lines))
