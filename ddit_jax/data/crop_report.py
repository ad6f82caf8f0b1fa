"""How much of a source's images training leaves out."""

import statistics
from collections.abc import Mapping

from ddit_jax.data.aspect_buckets import Shape, lost_share, nearest_shape
from ddit_jax.data.config import DataConfig, TaskConfig
from ddit_jax.data.example import BadRecord, Source, has_images
from ddit_jax.data.image_header import HeaderError, image_size_of_bytes
from ddit_jax.data.source_records import mixed_sources

# Records read, evenly spaced.
_NUM_SAMPLES = 32


def crop_report(config: DataConfig, sources: Mapping[str, Source]) -> list[str]:
  """A line for each task and source with images, estimated from a sample.

  Args:
    config: of the run.
    sources: opened, by name.
  """
  lines, sizes = [], {}
  for task, section in config.tasks_on().items():
    for name, source in mixed_sources(task, section, sources).items():
      if has_images(source) and name not in sizes:
        sizes[name] = _sampled_sizes(source)
      if sizes.get(name):
        lines.append(_line(task, section, name, sizes[name]))
  return lines


def _sampled_sizes(source: Source) -> list[Shape]:
  """(height, width) of some images."""
  sizes = []
  for index in range(0, len(source), -(-len(source) // _NUM_SAMPLES)):
    try:
      image = source[index].image
      size = None if image is None else image_size_of_bytes(image)
    except (BadRecord, HeaderError):
      continue
    if size is not None:
      sizes.append(size)
  return sizes


def _line(task: str, section: TaskConfig, name: str, sizes: list[Shape]) -> str:
  lost = [
    lost_share(size, nearest_shape(size, section.shapes)) for size in sizes
  ]
  mean, most = statistics.fmean(lost), max(lost)
  of = f"{mean:.1%} on average and {most:.1%} at most, in {len(lost)} images"
  if section.crop == "pad":
    return f"{task}: padding is part of the squares of {name}: {of}"
  way_out = f"; data.{task}.crop=pad keeps them" if most > 0 else ""
  return f"{task}: the crop loses pixels of {name}: {of}{way_out}"
