"""What happens to one example on its way into a shard."""

import io
import json

import pytest
from PIL import Image

from ddit_jax.data.example import BadRecord, Example, decode
from ddit_jax.data.prepare.prepare import PrepareOptions


def example(width, height, kind="PNG") -> Example:
  file = io.BytesIO()
  Image.new("RGB", (width, height), "teal").save(file, kind)
  return Example(record_id="r", image=file.getvalue(), texts=("a",))


def test_by_default_examples_stay_as_they_are():
  options = PrepareOptions()
  for plain in [
    example(3, 500),
    Example(record_id="r", image=b"no image", texts=("a",)),
    Example(record_id="r", image=None, texts=()),
  ]:
    assert options.refused(plain) is None
    assert decode(options.record(plain), "place") == plain


def test_large_images_are_shrunk():
  options = PrepareOptions(short_side=16)
  shrunk = decode(options.record(example(64, 32)), "place")
  with Image.open(io.BytesIO(shrunk.image)) as image:
    assert (image.size, image.format) == ((32, 16), "JPEG")
  text_only = Example(record_id="r", image=None, texts=("a",))
  assert decode(options.record(text_only), "place") == text_only
  with pytest.raises(BadRecord, match="r: not_an_image"):
    options.record(Example(record_id="r", image=b"x", texts=("a",)))


@pytest.mark.parametrize(
  ("width", "height", "refused"),
  [
    (40, 20, None),
    (41, 20, "ratio"),
    (20, 41, "ratio"),
    (20, 15, "short_side"),
    (16, 16, None),
  ],
)
def test_filters_look_at_the_original_size(width, height, refused):
  options = PrepareOptions(short_side=8, max_ratio=2.0, min_short_side=16)
  assert options.refused(example(width, height)) == refused


def test_filters_need_a_header():
  options = PrepareOptions(min_short_side=16)
  with pytest.raises(BadRecord, match="r: not_an_image"):
    options.refused(Example(record_id="r", image=b"x", texts=("a",)))
  assert options.refused(Example(record_id="r", image=None, texts=())) is None


@pytest.mark.parametrize(
  ("num_records", "shards"), [(1, 1), (8192, 1), (8193, 2), (10**6, 123)]
)
def test_how_many_shards(num_records, shards):
  assert PrepareOptions().shards_for(num_records) == shards
  assert PrepareOptions(num_shards=7).shards_for(num_records) == 7


def test_equal_json_means_equal_bytes():
  def as_json(**options):
    # RFC 8259 knows no infinity.
    return json.dumps(PrepareOptions(**options).as_json(10), allow_nan=False)

  assert as_json() == as_json(jpeg_quality=50) == as_json(num_shards=1)
  different = [
    as_json(),
    as_json(short_side=8),
    as_json(short_side=8, jpeg_quality=50),
    as_json(num_shards=2),
    as_json(max_ratio=3.0),
    as_json(min_short_side=3),
  ]
  assert len(set(different)) == len(different)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_shards": 0}, r"shards must lie in 1\.\.99999, got 0"),
    ({"num_shards": 100_000}, "shards must lie in"),
    ({"short_side": 0}, "short_side must be positive, got 0"),
    ({"jpeg_quality": 0}, r"jpeg_quality must lie in 1\.\.100, got 0"),
    ({"jpeg_quality": 101}, "jpeg_quality must lie in"),
    ({"max_ratio": 0.5}, "max_ratio"),
    ({"min_short_side": -1}, "min_short_side"),
  ],
)
def test_values_out_of_range(options, message):
  with pytest.raises(ValueError, match=message):
    PrepareOptions(**options)
