"""The sources of a mixture as records in one form."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from ddit_jax.data.config import TaskConfig
from ddit_jax.data.example import Source, has_images, has_pairs
from ddit_jax.data.reader import RecordReader, Transform
from ddit_jax.data.schedule import parse_schedule
from ddit_jax.data.sources.packed_texts import PackedDocuments
from ddit_jax.data.transforms import (
  ImageToTextTransform,
  PackedRowTransform,
  PairTransform,
  TextOnlyTransform,
  TextToImageTransform,
)
from ddit_jax.errors import check_known

_T = TypeVar("_T")
# Name and rows of a source -> some of its rows.
PartOf = Callable[[str, Any], Any]


def mixed_sources(
  name: str, config: TaskConfig, sources: Mapping[str, _T]
) -> dict[str, _T]:
  """The sources of a task's mixture, by name.

  Args:
    name: of the task.
    config: of the task.
    sources: all of them, opened or as in the config.

  Raises:
    ValueError: a source is unknown.
  """
  for weights in config.mixture.values():
    check_known(weights, sources, what=f"data.{name}.mixture names")
  names = sorted(parse_schedule(config.mixture).names())
  return {one: sources[one] for one in names}


def source_readers(
  sources: Mapping[str, Source],
  transform: Transform,
  *,
  seed: int,
  part_of: PartOf = lambda _, rows: rows,
  names: Collection[str] | None = None,
) -> dict[str, RecordReader]:
  """Records of each source, all in the same form.

  Where no source of the text task has images, its records have none either,
  and no black images are stored.

  Args:
    sources: of one task's mixture, by name.
    transform: of that task's examples.
    seed: of the draws, 0 or more.
    part_of: name and rows of a source -> those of its rows that are read.
    names: of the sources to read; None reads all. The others only say whether
      records have images.

  Raises:
    ValueError: a source is empty, or its texts fill no row; or only some of
      them have pairs.
  """
  with_pairs = [name for name, one in sources.items() if has_pairs(one)]
  if with_pairs and len(with_pairs) < len(sources):
    raise ValueError(
      f"the mixture has preference pairs ({', '.join(sorted(with_pairs))}) and "
      "other sources: name only pairs, or none"
    )
  is_text_only = not any(map(has_images, sources.values()))
  if is_text_only and isinstance(transform, ImageToTextTransform):
    transform = TextOnlyTransform(texts=transform.texts)
  if with_pairs:
    is_image_loss = isinstance(transform, TextToImageTransform)
    array = "images" if is_image_loss else "tokens"
    transform = PairTransform(one=transform, array=array)
  readers = {}
  for name in sorted(sources if names is None else names):
    source = sources[name]
    rows, to_record = rows_of_source(source, transform)
    readers[name] = RecordReader(part_of(name, rows), to_record, seed=seed)
  return readers


def rows_of_source(source: Source, transform: Transform):
  """(source, transform of its examples)."""
  if not isinstance(source, PackedDocuments):
    return source, transform
  texts = transform.texts
  no_image = {}
  if isinstance(transform, ImageToTextTransform):
    no_image = transform.no_image()
  return (
    source.rows(texts.tokenizer, texts.length),
    PackedRowTransform(
      length=texts.length,
      unknown_id=texts.tokenizer.unknown_id,
      no_image=no_image,
    ),
  )
