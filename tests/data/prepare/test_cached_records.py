"""Training records from a cache, beside those from the images themselves."""

import numpy as np
import pytest

from ddit_jax.data.prepare.cached_source import (
  CachedImageToTextTransform,
  CachedSource,
  CachedTextToImageTransform,
  StoredMoments,
)
from ddit_jax.data.reader import RecordReader
from ddit_jax.data.text import TextConfig, TextTransform
from ddit_jax.data.transforms import ImageToTextTransform, TextToImageTransform
from tests.data.prepare import tiny_cache as tiny

MOMENTS = StoredMoments(moments=tiny.MOMENTS)
# Draws own texts, too.
TEXTS = TextTransform(
  tokenizer=tiny.TOKENIZER,
  config=TextConfig(text_length=tiny.LENGTH, rewritten_probability=0.5),
)
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


@pytest.mark.parametrize("name", PAIRS)
def test_records_draws_and_replacements_are_the_same(cached, name):
  raw_transform, cached_transform = PAIRS[name]
  raw = RecordReader(tiny.TinySource(), raw_transform, seed=3)
  ours = RecordReader(cached, cached_transform, seed=3)
  num_truncated, reasons = 0, set()
  for visit in range(6 * tiny.NUM_RECORDS):
    index = visit % tiny.NUM_RECORDS
    records = raw.read(visit, index), ours.read(visit, index)
    errors = [list(map(str, record.bad)) for record in records]
    assert errors[0] == errors[1]
    assert records[0].num_truncated == records[1].num_truncated
    num_truncated += records[0].num_truncated
    reasons |= {error.reason for error in records[0].bad}
    expected, found = (dict(record.arrays) for record in records)
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
  assert num_truncated > 0 and "truncated_image" in reasons
