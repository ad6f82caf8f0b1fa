"""How each source of a mixture is read: as examples, or as packed rows."""

from collections.abc import Mapping

from ddit_jax.data.examples import Source, has_images
from ddit_jax.data.read_log import ReadLog
from ddit_jax.data.reading import ReadExamples, Transform
from ddit_jax.data.sources.packed_documents import PackedDocuments
from ddit_jax.data.transforms.text_alone import (
  PackedRowTransform,
  TextAloneTransform,
)
from ddit_jax.data.transforms.training_records import ImageToTextTransform


def source_readers(
  sources: Mapping[str, Source],
  transform: Transform,
  *,
  seed: int,
  log: ReadLog,
) -> dict[str, ReadExamples]:
  """Records of each source, all of one form.

  Where no source of the text stream has images, its records have none either,
  and no black image is carried about.

  Args:
    sources: of one stream's mixture, by name.
    transform: of that stream's examples.
    seed: of the draws, 0 or more.
    log: counts what was read.

  Raises:
    ValueError: a source is empty, or its texts fill no row.
  """
  is_text_alone = not any(map(has_images, sources.values()))
  if is_text_alone and isinstance(transform, ImageToTextTransform):
    transform = TextAloneTransform(texts=transform.texts)
  return {
    name: ReadExamples(*_reading(source, transform), seed=seed, log=log)
    for name, source in sorted(sources.items())
  }


def check_have_images(sources: Mapping[str, Source]) -> None:
  """Raises ValueError for a source of texts alone in the image stream."""
  for name, source in sources.items():
    if not has_images(source):
      raise ValueError(
        f"data.text_to_image.mixture names {name!r}, which holds texts alone: "
        "name it in data.image_to_text.mixture"
      )


def _reading(source: Source, transform: Transform):
  """(what to read, how to make records of it)."""
  if not isinstance(source, PackedDocuments):
    return source, transform
  texts = transform.texts
  no_image = {}
  if isinstance(transform, ImageToTextTransform):
    no_image = transform.no_image()
  return (
    source.rows(texts.tokenizer, texts.length),
    PackedRowTransform(length=texts.length, no_image=no_image),
  )
