"""Records of both tasks, from hand-made examples."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from ddit_jax.data.bad_records import ReadLog
from ddit_jax.data.example import BadRecord, Example
from ddit_jax.data.image import ImageConfig, ImageTransform
from ddit_jax.data.text import TextConfig, TextTransform
from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.data.transforms import ImageToTextTransform, TextToImageTransform
from tests.data.pictures import encoded, pixels

TOKENIZER = word_tokenizer(["Q:", "A:", "?", "a", "b", "left"])
END = TOKENIZER.end_id
SIZE, LENGTH = 8, 6
EXAMPLE = Example(
  record_id="r",
  image=encoded(pixels(SIZE, SIZE)),
  prompt="Q: a ? A: ",
  texts=("b",),
)


def transform(kind, flip_probability=0.0, length=LENGTH):
  return kind(
    images=ImageTransform(
      config=ImageConfig(image_size=SIZE, flip_probability=flip_probability)
    ),
    texts=TextTransform(
      tokenizer=TOKENIZER, config=TextConfig(text_length=length)
    ),
  )


def visit(kind, example=EXAMPLE, **options):
  return transform(kind, **options)(example, np.random.default_rng(0))


def ids(text):
  return TOKENIZER.encode(text)


def test_text_to_image_takes_the_caption_without_the_prompt():
  found = visit(TextToImageTransform).arrays
  assert set(found) == {"images", "tokens"}
  np.testing.assert_array_equal(found["images"], pixels(SIZE, SIZE))
  assert found["tokens"].tolist() == [*ids("b"), *[END] * 5]


def test_image_to_text_has_prompt_target_and_image():
  found = visit(ImageToTextTransform).arrays
  assert set(found) == {"images", "tokens", "loss_mask", "has_image"}
  np.testing.assert_array_equal(found["images"], pixels(SIZE, SIZE))
  assert found["tokens"].tolist() == [*ids("Q: a ? A: b"), END]
  assert found["loss_mask"].tolist() == [False] * 4 + [True] * 2
  assert found["has_image"].shape == () and found["has_image"]


def test_a_text_without_an_image_gets_a_black_one_and_says_so():
  found = visit(
    ImageToTextTransform, dataclasses.replace(EXAMPLE, image=None)
  ).arrays
  assert found["images"].shape == (SIZE, SIZE, 3)
  assert found["images"].dtype == np.uint8 and not found["images"].any()
  assert found["has_image"].dtype == bool and not found["has_image"]


def test_text_to_image_refuses_a_text_without_an_image():
  with pytest.raises(BadRecord, match="only the image-to-text") as caught:
    visit(TextToImageTransform, dataclasses.replace(EXAMPLE, image=None))
  assert caught.value.reason == "missing_file"


@pytest.mark.parametrize(("length", "num_lost"), [(3, 0), (2, 0), (1, 1)])
def test_cut_words_are_counted_and_a_cut_end_is_not(length, num_lost):
  example = dataclasses.replace(EXAMPLE, prompt="", texts=("a b",))
  for kind in (TextToImageTransform, ImageToTextTransform):
    assert visit(kind, example, length=length).num_truncated == num_lost


@pytest.mark.parametrize("kind", [TextToImageTransform, ImageToTextTransform])
def test_a_picture_whose_text_names_a_side_is_not_mirrored(kind):
  plain = pixels(SIZE, SIZE)
  mirrored = visit(kind, flip_probability=1.0).arrays["images"]
  np.testing.assert_array_equal(mirrored, plain[:, ::-1])
  named = dataclasses.replace(EXAMPLE, texts=("a left b",))
  kept = visit(kind, named, flip_probability=1.0).arrays["images"]
  np.testing.assert_array_equal(kept, plain)


def test_a_side_in_the_question_counts_where_the_question_is_read():
  asked = dataclasses.replace(EXAMPLE, prompt="Q: left ? A: ")
  plain = pixels(SIZE, SIZE)
  kept = visit(ImageToTextTransform, asked, flip_probability=1.0)
  np.testing.assert_array_equal(kept.arrays["images"], plain)
  mirrored = visit(TextToImageTransform, asked, flip_probability=1.0)
  np.testing.assert_array_equal(mirrored.arrays["images"], plain[:, ::-1])


@pytest.mark.parametrize("kind", [TextToImageTransform, ImageToTextTransform])
def test_the_size_of_a_record_is_known_beforehand(kind):
  arrays = visit(kind).arrays
  expected = sum(array.nbytes for array in arrays.values())
  assert transform(kind).record_bytes == expected


@pytest.mark.parametrize("texts", [(), ("",)])
def test_an_image_without_any_caption_gets_the_null_caption(texts):
  example = dataclasses.replace(EXAMPLE, texts=texts)
  found = visit(TextToImageTransform, example).arrays
  assert found["tokens"].tolist() == [END] * LENGTH
  np.testing.assert_array_equal(found["images"], pixels(SIZE, SIZE))
  with pytest.raises(BadRecord, match="empty_text"):
    visit(ImageToTextTransform, example)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_counted(kind, tmp_path):
  frames = [
    Image.new("RGB", (SIZE, SIZE), colour) for colour in ("red", "blue")
  ]
  moving = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
  log = ReadLog(tmp_path / "bad.jsonl")
  for image in (moving, EXAMPLE.image, None):
    example = dataclasses.replace(EXAMPLE, image=image)
    record = visit(ImageToTextTransform, example)
    log.add(dataclasses.replace(record, source="s"))
  assert log.counts() == {"s/reads": 3, "s/animations": 1}
