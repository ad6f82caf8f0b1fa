"""Training records from a cache, beside those from the images themselves."""

import dataclasses

import numpy as np
import pytest

from ddit_jax.data.bad_records import BadRecordLimits, ReadLog
from ddit_jax.data.prepare.cached_source import (
  CachedImageToTextTransform,
  CachedSource,
  CachedTextToImageTransform,
  StoredMoments,
)
from ddit_jax.data.reader import ReadExamples
from ddit_jax.data.transforms import ImageToTextTransform, TextToImageTransform
from tests.data.prepare import tiny_cache as tiny

MOMENTS = StoredMoments(moments=tiny.MOMENTS)
# Draws own texts, too.
TEXTS = dataclasses.replace(tiny.TEXTS, rewritten_probability=0.5)
PAIRS = {
  "text_to_image": (
    TextToImageTransform(images=tiny.IMAGES, texts=TEXTS),
    CachedTextToImageTransform(images=MOMENTS, texts=TEXTS, feature=None),
  ),
  "with features": (
    TextToImageTransform(images=tiny.IMAGES, texts=TEXTS),
    CachedTextToImageTransform(
      images=MOMENTS, texts=TEXTS, feature=tiny.FEATURE
    ),
  ),
  "image_to_text": (
    ImageToTextTransform(images=tiny.IMAGES, texts=TEXTS),
    CachedImageToTextTransform(images=MOMENTS, texts=TEXTS),
  ),
}


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cache") / "out"
  tiny.writer(folder).write()
  return CachedSource("tiny", folder, removed={})


def reading(source, transform, path):
  log = ReadLog(path, BadRecordLimits(max_share=1.0))
  return ReadExamples(source, transform, seed=3, log=log), log


@pytest.mark.parametrize("name", PAIRS)
def test_records_draws_and_replacements_are_the_same(tmp_path, cached, name):
  raw_transform, cached_transform = PAIRS[name]
  raw, raw_log = reading(tiny.TinySource(), raw_transform, tmp_path / "raw")
  ours, our_log = reading(cached, cached_transform, tmp_path / "ours")
  for visit in range(6 * tiny.NUM_RECORDS):
    expected, found = raw[visit], ours[visit]
    pixels, moments = expected.pop("images"), found.pop("images")
    assert sum(a.nbytes for a in found.values()) + moments.nbytes == (
      ours.record_bytes
    )
    features = found.pop("features", None)
    if name == "with features":
      drawn = tiny.features_of(expected["tokens"][None])[0]
      np.testing.assert_array_equal(features, drawn)
    if expected.get("has_image", True):
      made = tiny.moments_of(pixels[None])[0]
      np.testing.assert_array_equal(moments.astype(np.float32), made)
    else:
      assert not moments.any()
    np.testing.assert_equal(found, expected)
  assert our_log.counts() == raw_log.counts()
  assert our_log.counts()["tiny/bad/truncated_image"] > 0
  assert our_log.counts()["tiny/truncated_texts"] > 0
  listed = [(tmp_path / name).read_text() for name in ("raw", "ours")]
  assert listed[0] == listed[1]
