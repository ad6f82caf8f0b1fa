"""Opens a stream's caches, and compares them with what the run would encode."""

import pathlib
from collections.abc import Iterable, Mapping

from ddit_jax.data.caches.cache_manifest import differences
from ddit_jax.data.caches.cached_records import (
  CachedImageToTextTransform,
  CachedTextToImageTransform,
  StoredMoments,
)
from ddit_jax.data.caches.cached_source import CachedSource
from ddit_jax.data.examples import Source, has_images
from ddit_jax.data.tokenizer import Tokenizer
from ddit_jax.data.transforms.texts import TextTransform
from ddit_jax.experiment.cache_origins import (
  TEXT_TO_IMAGE,
  check_can_be_cached,
  features_origin,
  latents_origin,
  takes_features,
)
from ddit_jax.settings import ExperimentSettings


def open_caches(
  settings: ExperimentSettings,
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
  settings: ExperimentSettings,
  stream: str,
  sources: Iterable[Source],
  texts: TextTransform,
) -> CachedTextToImageTransform | CachedImageToTextTransform | None:
  """The transform of what `open_caches` gave; None if nothing has images."""
  plans = [s.plan for s in sources if isinstance(s, CachedSource)]
  if not plans:
    return None
  images = StoredMoments(layout=plans[0].moments)
  if stream != TEXT_TO_IMAGE:
    return CachedImageToTextTransform(images=images, texts=texts)
  feature = None
  if takes_features(settings, stream):
    feature = plans[0].feature
  return CachedTextToImageTransform(images=images, texts=texts, feature=feature)


def _check_is_there(
  settings: ExperimentSettings, stream: str, folder: pathlib.Path
) -> None:
  if not folder.is_dir():
    raise ValueError(
      f"data.{stream}.mixture names {folder.name!r}, which has no cache in "
      f"{folder.parent}: {_way_out(settings, stream)}"
    )


def _check_origin(
  settings: ExperimentSettings,
  stream: str,
  pair: tuple[Source, CachedSource],
  tokenizer: Tokenizer,
) -> None:
  source, cached = pair
  plan = cached.plan
  wanted = latents_origin(settings, stream, source)
  differing = differences(plan.latents, wanted)
  if plan.features is not None and takes_features(settings, stream):
    wanted = features_origin(settings, stream, tokenizer)
    differing += differences(plan.features, wanted)
  if differing:
    unique = ", ".join(dict.fromkeys(differing))
    raise ValueError(
      f"data.{stream}.cache: that of {source.name!r} was made from something "
      f"else ({unique}): {_way_out(settings, stream)}"
    )


def _check_alike(
  settings: ExperimentSettings, stream: str, sources: Mapping[str, Source]
) -> None:
  """A batch cannot have features of some of its rows."""
  if not takes_features(settings, stream):
    return
  has_features = {
    name: source.plan.features is not None
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


def _way_out(settings: ExperimentSettings, stream: str) -> str:
  parts = "latents,t5" if takes_features(settings, stream) else "latents"
  return (
    f"write a cache with ddit prepare --cache={parts} --stream={stream} "
    "--out=NEW_FOLDER and this config, or read the images with "
    f"data.{stream}.cache=''"
  )
