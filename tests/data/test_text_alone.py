"""Records of texts without images."""

import numpy as np
import pytest

from ddit_jax.data.example import BadRecord, Example
from ddit_jax.data.image import ImageConfig, ImageTransform
from ddit_jax.data.text import TextConfig, TextTransform
from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.data.transforms import (
  ImageToTextTransform,
  PackedRowTransform,
  TextOnlyTransform,
)

TEXTS = TextTransform(
  tokenizer=word_tokenizer(["a", "b"]), config=TextConfig(text_length=5)
)
RNG = np.random.default_rng(0)


def example(**changes):
  given = {"record_id": "r", "image": None, "texts": ("b",)}
  return Example(**given | changes)


def num_bytes(record) -> int:
  return sum(array.nbytes for array in record.arrays.values())


def test_a_text_alone_is_laid_out_as_beside_an_image():
  alone = TextOnlyTransform(texts=TEXTS)
  beside = ImageToTextTransform(
    images=ImageTransform(config=ImageConfig(image_size=4)), texts=TEXTS
  )
  for one in (example(), example(prompt="a a"), example(texts=("a " * 9,))):
    found, expected = alone(one, RNG), beside(one, RNG)
    assert set(found.arrays) == {"tokens", "loss_mask"}
    for name, array in found.arrays.items():
      np.testing.assert_array_equal(array, expected.arrays[name])
      assert array.dtype == expected.arrays[name].dtype
    assert found.num_truncated == expected.num_truncated
    assert num_bytes(found) == alone.record_bytes


def test_an_image_is_not_lost_unseen():
  with pytest.raises(BadRecord, match="an image in a source of texts alone"):
    TextOnlyTransform(texts=TEXTS)(example(image=b"x"), RNG)


def test_every_token_of_a_packed_row_is_a_target():
  row = np.array([3, 1, 4, 4, 1], np.int32)
  transform = PackedRowTransform(length=5, unknown_id=2, no_image={})
  record = transform(row, RNG)
  assert set(record.arrays) == {"tokens", "loss_mask"}
  assert record.arrays["tokens"].tolist() == row.tolist()
  assert record.arrays["loss_mask"].tolist() == [True] * 5
  assert record.num_truncated == 0
  assert num_bytes(record) == transform.record_bytes


def test_what_has_no_id_is_no_target_of_a_packed_row():
  transform = PackedRowTransform(length=3, unknown_id=2, no_image={})
  record = transform(np.array([3, 2, 1], np.int32), RNG)
  assert record.arrays["loss_mask"].tolist() == [True, False, True]
  assert record.num_unknown == 1
  # A tokenizer of bytes has an id for everything.
  transform = PackedRowTransform(length=3, unknown_id=None, no_image={})
  record = transform(np.array([3, 2, 1], np.int32), RNG)
  assert record.arrays["loss_mask"].all() and record.num_unknown == 0


def test_beside_images_a_row_has_what_an_example_without_one_has():
  beside = ImageToTextTransform(
    images=ImageTransform(config=ImageConfig(image_size=4)), texts=TEXTS
  )
  expected = beside(example(), RNG).arrays
  transform = PackedRowTransform(
    length=5, unknown_id=2, no_image=beside.no_image()
  )
  record = transform(np.zeros(5, np.int32), RNG)
  assert set(record.arrays) == set(expected)
  for name in ("images", "has_image"):
    np.testing.assert_array_equal(record.arrays[name], expected[name])
  assert record.arrays["images"].shape == (4, 4, 3)
  assert not record.arrays["has_image"]
  assert num_bytes(record) == transform.record_bytes
