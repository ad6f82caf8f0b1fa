"""Both streams of image-text pairs on disk, mixed as the config says."""

import dataclasses
import hashlib
import json
import pathlib
import types
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from ddit_jax.batch import DualBatch
from ddit_jax.checkpoint.manifest import contents_digest
from ddit_jax.config.dry_run import TOY_SOURCE
from ddit_jax.conversion.checkpoint_record import read_record
from ddit_jax.conversion.components import config_to_record
from ddit_jax.data.bad_records import BadRecordLimits, ReadLog
from ddit_jax.data.config import DataConfig, TaskConfig
from ddit_jax.data.example import Source, has_images
from ddit_jax.data.image import ImageTransform
from ddit_jax.data.loader import (
  DualStream,
  MixtureStream,
  RowsOf,
  check_have_images,
  dual_batch,
  source_readers,
)
from ddit_jax.data.mixture import Mixture, parse_schedule
from ddit_jax.data.prepare.cached_source import (
  CachedImageToTextTransform,
  CachedSource,
  CachedTextToImageTransform,
  StoredMoments,
)
from ddit_jax.data.prepare.shards import differences
from ddit_jax.data.sources.registry import open_source
from ddit_jax.data.text import TextTransform
from ddit_jax.data.tokenizers import (
  Tokenizer,
  pretrained_tokenizer,
  tokenizer_of_sources,
  word_tokenizer,
)
from ddit_jax.data.transforms import ImageToTextTransform, TextToImageTransform
from ddit_jax.digits import grammar
from ddit_jax.digits.world import WORLDS
from ddit_jax.errors import check_known
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.digit_data import DigitData
from ddit_jax.experiment.model import OF_ENCODERS
from ddit_jax.experiment.pretrained import PretrainedModel
from ddit_jax.experiment.toy_source import open_toy
from ddit_jax.models.config import size

TEXT_TO_IMAGE = "text_to_image"

# To be changed with `ImageTransform`, so that older caches are refused.
_IMAGE_TRANSFORM = (
  "short side by antialiased bicubic, centre square, not mirrored"
)
_DIGEST_BYTES = 16


def check_can_be_cached(settings: Config, stream: str) -> None:
  """Raises ValueError unless the stream's images are always the same."""
  given = settings.data.streams()[stream]
  if not settings.data.sources:
    raise ValueError(
      "a cache holds images of data.sources, and the digit world draws its "
      f"own: set data.{stream}.cache='' or name data.sources"
    )
  if not settings.model.encoders_from:
    raise ValueError(
      "a cache holds outputs of frozen encoders, and model.encoders_from is "
      f"empty: name converted weights, or set data.{stream}.cache=''"
    )
  if given.crop != "centre" or given.flip_probability:
    raise ValueError(
      f"data.{stream} has crop={given.crop!r} and flip_probability="
      f"{given.flip_probability}, but a cache holds each image once: set "
      f"data.{stream}.crop=centre and data.{stream}.flip_probability=0.0, or "
      f"read the images with data.{stream}.cache=''"
    )


def takes_features(settings: Config, stream: str) -> bool:
  """Whether features of clean captions serve the stream.

  Masked texts need the text encoder anew at each step, and some networks embed
  their tokens themselves.
  """
  if stream != TEXT_TO_IMAGE:
    return False
  if settings.model.size != OF_ENCODERS:
    return size(settings.model.size).context_dim is not None
  record = read_record(_encoders_folder(settings))
  return record.configs["network"].context_dim is not None


def latents_origin(settings: Config, stream: str) -> dict[str, Any]:
  """All that decides the moments of an image."""
  return {
    "autoencoder": _encoder_digest(settings, "vae"),
    "encoder_dtype": settings.model.encoder_dtype,
    "image_size": settings.data.streams()[stream].image_size,
    "image_transform": _IMAGE_TRANSFORM,
  }


def features_origin(
  settings: Config, stream: str, tokenizer: Tokenizer
) -> dict[str, Any]:
  """All that decides the features of a text."""
  files = {
    name: hashlib.blake2b(data).hexdigest()
    for name, data in tokenizer.files().items()
  }
  return {
    "text_encoder": _encoder_digest(settings, "text_encoder"),
    "encoder_dtype": settings.model.encoder_dtype,
    "tokenizer": _digest(files),
    "text_length": settings.data.streams()[stream].text_length,
  }


def _encoder_digest(settings: Config, name: str) -> str:
  """Of an encoder's configuration and of its weights as the manifest says."""
  folder = _encoders_folder(settings)
  config = config_to_record(read_record(folder).configs[name])
  return _digest([config, contents_digest(folder, name)])


def _encoders_folder(settings: Config) -> pathlib.Path:
  return pathlib.Path(settings.model.encoders_from)


def _digest(body: Any) -> str:
  text = json.dumps(body, sort_keys=True).encode()
  return hashlib.blake2b(text, digest_size=_DIGEST_BYTES).hexdigest()


LATENTS, T5 = "latents", "t5"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheRequest:
  """The flags of the command line.

  Attributes:
    stream: "text_to_image" or "image_to_text"; its mixture names the sources.
    parts: LATENTS, or LATENTS and T5.
    out: folder that receives one folder a source.
    rows_per_device: images or texts encoded at once; None takes as many as a
      device has in a training step, at most 32.
    num_shards: files of each kind and source; None chooses.
    max_bad_rate: share of a source's records that may be bad.
    threads: that read and decode; None takes one a core.
  """

  stream: str
  parts: tuple[str, ...]
  out: str
  rows_per_device: int | None = None
  num_shards: int | None = None
  max_bad_rate: float = 0.01
  threads: int | None = None

  @property
  def has_features(self) -> bool:
    """True if T5's features are asked for."""
    return T5 in self.parts

  def check(self, settings: Config) -> None:
    """Raises ValueError unless the settings' stream can be cached like this."""
    check_known([self.stream], settings.data.streams(), what="--stream has no")
    check_known(self.parts, (LATENTS, T5), what="--cache has no part")
    check_can_be_cached(settings, self.stream)
    if LATENTS not in self.parts:
      raise ValueError(
        f"--cache={','.join(self.parts)} lacks latents, beside which all else "
        "is kept: write --cache=latents,t5"
      )
    if self.has_features and not takes_features(settings, self.stream):
      raise ValueError(
        f"--cache asks for t5, but {self.stream} of this config takes no "
        "features of clean captions (masked texts are encoded at each step, "
        "and some networks embed tokens themselves): write --cache=latents"
      )
    self._check_numbers()

  def sources(
    self, settings: Config, opened: Mapping[str, Source]
  ) -> dict[str, Source]:
    """Those of the stream's mixture that have images, by name.

    Raises:
      ValueError: the mixture names unknown ones, or none has images.
    """
    mixture = settings.data.streams()[self.stream].mixture
    what = f"data.{self.stream}.mixture names"
    for weights in mixture.values():
      check_known(weights, opened, what=what)
    names = sorted(parse_schedule(mixture).names())
    found = {name: opened[name] for name in names if has_images(opened[name])}
    if not found:
      raise ValueError(f"{what} no source with images: nothing can be cached")
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
        f"--max_bad_rate must lie in 0..1, got {self.max_bad_rate}"
      )


def open_caches(
  settings: Config,
  stream: str,
  sources: Mapping[str, Source],
  tokenizer: Tokenizer,
) -> dict[str, Source]:
  """The stream's sources, those with images from its cache.

  Args:
    settings: of the run.
    stream: "text_to_image" or "image_to_text".
    sources: of its mixture, by name.
    tokenizer: of the run.

  Raises:
    ValueError: the stream cannot be cached, a source has no cache, or one was
      made from something else; the line names what differs.
  """
  check_can_be_cached(settings, stream)
  folder = pathlib.Path(settings.data.streams()[stream].cache)
  opened = {}
  for name, source in sorted(sources.items()):
    opened[name] = source
    if has_images(source):
      _check_is_there(settings, stream, folder / name)
      cached = CachedSource(name, folder / name, removed=source.removed)
      _check_origin(settings, stream, (source, cached), tokenizer)
      opened[name] = cached
  _check_alike(settings, stream, opened)
  return opened


def cached_transform(
  settings: Config,
  stream: str,
  sources: Iterable[Source],
  texts: TextTransform,
) -> CachedTextToImageTransform | CachedImageToTextTransform | None:
  """The transform of what `open_caches` gave; None if nothing has images."""
  caches = [source for source in sources if isinstance(source, CachedSource)]
  if not caches:
    return None
  images = StoredMoments(moments=caches[0].moments)
  if stream != TEXT_TO_IMAGE:
    return CachedImageToTextTransform(images=images, texts=texts)
  feature = None
  if takes_features(settings, stream):
    feature = caches[0].feature
  return CachedTextToImageTransform(images=images, texts=texts, feature=feature)


def _check_is_there(
  settings: Config, stream: str, folder: pathlib.Path
) -> None:
  if not folder.is_dir():
    raise ValueError(
      f"data.{stream}.mixture names {folder.name!r}, which has no cache in "
      f"{folder.parent}: {_way_out(settings, stream)}"
    )


def _check_origin(
  settings: Config,
  stream: str,
  pair: tuple[Source, CachedSource],
  tokenizer: Tokenizer,
) -> None:
  source, cached = pair
  differing = differences(
    {"source": cached.fingerprint(), "num_records": len(cached)}
    | cached.options["latents"],
    {"source": source.fingerprint(), "num_records": len(source)}
    | latents_origin(settings, stream),
  )
  if cached.feature is not None and takes_features(settings, stream):
    wanted = features_origin(settings, stream, tokenizer)
    differing += differences(cached.options["features"], wanted)
  if differing:
    unique = ", ".join(dict.fromkeys(differing))
    raise ValueError(
      f"data.{stream}.cache: that of {source.name!r} was made from something "
      f"else ({unique}): {_way_out(settings, stream)}"
    )


def _check_alike(
  settings: Config, stream: str, sources: Mapping[str, Source]
) -> None:
  """A batch cannot have features of some of its rows."""
  if not takes_features(settings, stream):
    return
  has_features = {
    name: source.feature is not None
    for name, source in sources.items()
    if isinstance(source, CachedSource)
  }
  if len(set(has_features.values())) > 1:
    without = [name for name, has_some in has_features.items() if not has_some]
    raise ValueError(
      f"data.{stream}.cache has features of some sources, but none of "
      f"{without}: write all caches alike"
    )
  is_merged = settings.loss.is_merged and len(settings.data.streams_on()) > 1
  if any(has_features.values()) and is_merged:
    raise ValueError(
      f"data.{stream}.cache holds features, and loss.is_merged runs captions "
      "and masked texts through the text encoder together: set "
      "loss.is_merged=False, or write the cache with --cache=latents"
    )


def _way_out(settings: Config, stream: str) -> str:
  parts = "latents,t5" if takes_features(settings, stream) else "latents"
  return (
    f"write a cache with ddit prepare --cache={parts} --stream={stream} "
    "--out=NEW_FOLDER and this config, or read the images with "
    f"data.{stream}.cache=''"
  )


_TRANSFORMS = {
  "text_to_image": TextToImageTransform,
  "image_to_text": ImageToTextTransform,
}
_PURPOSES = tuple(_TRANSFORMS)
# Not a seed that a run is likely to have.
_VALIDATION_SEED = 2**31 + 7


@dataclasses.dataclass(frozen=True)
class SourceData:
  """The opened sources of a run, and what reading them has met.

  Attributes:
    settings: of the run.
    tokenizer: of its texts.
    sources: by the name the config gives them.
    log: bad records and cut texts.
    caches: stream -> the sources of its mixture, with encoder outputs in place
      of images; of the streams that read a cache.
  """

  settings: Config
  tokenizer: Tokenizer
  sources: Mapping[str, Source]
  log: ReadLog
  caches: Mapping[str, Mapping[str, Source]]

  @classmethod
  def open(
    cls,
    settings: Config,
    tokenizer: Tokenizer,
    sources: Mapping[str, Source],
    workdir: pathlib.Path,
  ) -> "SourceData":
    """Checks mixtures and caches, and lists unreadable records in `workdir`.

    Raises:
      ValueError: a mixture names unknown sources or makes no sense; a cache is
        missing or was made from something else.
    """
    caches = {}
    for name, stream in settings.data.streams_on().items():
      what = f"data.{name}.mixture names"
      for weights in stream.mixture.values():
        check_known(weights, sources, what=what)
      names = parse_schedule(stream.mixture).names()
      mixed = {one: sources[one] for one in sorted(names)}
      if name == "text_to_image":
        check_have_images(mixed)
      if stream.cache:
        caches[name] = open_caches(settings, name, mixed, tokenizer)
    limits = BadRecordLimits(max_share=settings.data.max_bad_share)
    # Each process lists what it met itself.
    name = f"bad_records.{jax.process_index()}.jsonl"
    log = ReadLog(workdir / name, limits)
    return cls(settings, tokenizer, sources, log, caches)

  def training_stream(self, rows_of: RowsOf = range) -> DualStream:
    """The streams that are on, from their beginning.

    Raises:
      ValueError: a mixture names unknown sources, or a source is empty.
    """
    streams = self.settings.data.streams_on()
    return DualStream(
      **{name: self._stream(name, one) for name, one in streams.items()},
      rows_of=rows_of,
    )

  def validation_batch(self, rows_of: RowsOf = range) -> DualBatch:
    """This process's rows of a fixed batch, the same for every seed.

    The records are of the training sources, drawn in an order of its own with
    the mixture of step 0: its losses show the course of training, not how well
    unseen images are known.
    """
    rows = rows_of(self.settings.data.validation_size)
    read = {}
    for name, stream in self.settings.data.streams_on().items():
      mixture = self._mixture(name, stream, seed=_VALIDATION_SEED)
      records = [mixture[row] for row in rows]
      read[name] = {
        key: np.stack([r[key] for r in records]) for key in records[0]
      }
    return dual_batch(**read)

  def counts(self) -> dict[str, int]:
    """What reading met so far in this process; see `ReadLog.counts`."""
    return {f"data/{name}": n for name, n in self.log.counts().items()}

  def report(self) -> str:
    """One line a source: records, and what its filters left out."""
    lines = [
      f"source {name}: {len(source)} records, left out {dict(source.removed)}"
      for name, source in self.sources.items()
    ]
    streams = self.settings.data.streams()
    lines += [f"{n} reads the cache {streams[n].cache}" for n in self.caches]
    return "\n".join(lines)

  def _stream(self, name: str, stream: TaskConfig) -> MixtureStream:
    seed = self.settings.seed
    return MixtureStream(mixture=self._mixture(name, stream, seed=seed))

  def _mixture(self, name: str, stream: TaskConfig, *, seed: int) -> Mixture:
    schedule = parse_schedule(stream.mixture)
    texts = TextTransform(
      tokenizer=self.tokenizer,
      length=stream.text_length,
      rewritten_probability=stream.rewritten_probability,
    )
    images = ImageTransform(
      size=stream.image_size,
      crop=stream.crop,
      flip_probability=stream.flip_probability,
    )
    sources = self.sources
    transform = _TRANSFORMS[name](images=images, texts=texts)
    if name in self.caches:
      sources = self.caches[name]
      cached = cached_transform(self.settings, name, sources.values(), texts)
      transform = cached or transform
    purpose = _PURPOSES.index(name)
    words = np.random.SeedSequence([seed, purpose]).generate_state(2)
    draws, order = (int(word) for word in words)
    readers = source_readers(
      {source: sources[source] for source in schedule.names()},
      transform,
      seed=draws,
      log=self.log,
    )
    return Mixture(readers, schedule, batch_size=stream.batch_size, seed=order)


# The `data.tokenizer` that is made of the sources' own words.
WORDS = "words"


def open_sources(data: DataConfig) -> dict[str, Source]:
  """The sources of `data.sources`; their indexes are built if need be.

  Raises:
    ValueError: one of them cannot be opened.
  """
  return {name: _open_source(name, spec) for name, spec in data.sources.items()}


def _open_source(name: str, spec: Mapping[str, object]) -> Source:
  if spec.get("kind") != TOY_SOURCE:
    return open_source(name, spec)
  keys = {key: value for key, value in spec.items() if key != "kind"}
  return open_toy(name, **keys)


def make_tokenizer(
  data: DataConfig,
  encoders: PretrainedModel | None = None,
  sources: Mapping[str, Source] = types.MappingProxyType({}),
) -> Tokenizer:
  """The tokenizer of a fresh run; a resumed one reads its checkpoint's.

  Raises:
    ValueError: its folder or kind cannot be used, or there is none.
  """
  asked = data.tokenizer
  kind, _, folder = asked.partition(":")
  if asked == WORDS and sources:
    return tokenizer_of_sources(sources.values())
  if folder:
    return pretrained_tokenizer(kind, folder)
  if asked or (sources and encoders is None):
    raise ValueError(
      f"data.tokenizer is {asked!r}: write KIND:FOLDER, e.g. "
      f"gpt2:path/to/gpt2, or for small data.sources {WORDS!r}, or set "
      "model.encoders_from"
    )
  if encoders is not None:
    return encoders.tokenizer
  # The digit worlds share one grammar.
  return word_tokenizer(grammar.words())


def open_data(
  config: Config,
  tokenizer: Tokenizer,
  sources: Mapping[str, Source],
  workdir: pathlib.Path,
) -> DigitData | SourceData:
  """What both streams and the validation batch come from.

  Args:
    config: of the run.
    tokenizer: of its texts.
    sources: what `open_sources` gave.
    workdir: where unreadable records are listed.

  Raises:
    ValueError: a world or mixture cannot be used.
  """
  if sources:
    return SourceData.open(config, tokenizer, sources, workdir)
  return DigitData(config, WORLDS[config.data.world], tokenizer)
