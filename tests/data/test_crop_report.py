"""The share of the pixels that a crop loses, by hand."""

import dataclasses

import pytest

from ddit_jax.data.config import DataConfig, TaskConfig
from ddit_jax.data.crop_report import crop_report
from ddit_jax.data.example import BadRecord, Example
from tests.source_files import encoded


class Pictures:
  def __init__(self, sides, has_images=True):
    self.name, self.removed, self._sides = "web", {}, sides
    self.has_images = has_images

  def __len__(self):
    return len(self._sides)

  def __getitem__(self, index):
    sides = self._sides[index]
    if sides is None:
      raise BadRecord("missing_file", "gone", "x")
    image = encoded(*sides) if sides else b"no image"
    return Example(record_id="x", image=image, texts=("a",))

  def fingerprint(self):
    return ""


def config(crop="centre"):
  task = TaskConfig(
    batch_size=1, mixture={"0": {"web": 1.0, "docs": 1.0}}, crop=crop
  )
  off = dataclasses.replace(task, batch_size=0)
  sources = {"web": {}, "docs": {}}
  return DataConfig(sources=sources, text_to_image=off, image_to_text=task)


def report(sides, **changes):
  sources = {"web": Pictures(sides), "docs": Pictures([], has_images=False)}
  return crop_report(config(**changes), sources)


def test_three_boxes_in_a_row_lose_three_quarters():
  # 400 x 100 keeps a quarter, 100 x 100 all of it.
  assert report([(40, 10), (10, 10), None, ()]) == [
    "image_to_text: the crop loses pixels of web: 37.5% on average and 75.0% "
    "at most, in 2 images; data.image_to_text.crop=pad keeps them"
  ]


def test_padding_has_the_share_that_a_crop_would_lose():
  assert report([(10, 40)], crop="pad") == [
    "image_to_text: padding is part of the squares of web: 75.0% on average "
    "and 75.0% at most, in 1 images"
  ]


def test_squares_lose_nothing_and_need_no_remedy():
  (line,) = report([(10, 10)] * 3)
  assert line.endswith("web: 0.0% on average and 0.0% at most, in 3 images")


@pytest.mark.parametrize("count", [1, 31, 32, 33, 1000])
def test_large_sources_are_sampled(count):
  (line,) = report([(2, 1)] * count)
  num_read = int(line.split(" in ")[1].split()[0])
  assert min(count, 16) <= num_read <= 32
