"""Generated scenes in place of files."""

import io

import numpy as np
import pytest
from PIL import Image

from ddit_jax.data.example import has_images
from ddit_jax.experiment.toy_source import open_toy


def test_captions_come_with_pictures_that_are_always_the_same():
  first, second = open_toy("a"), open_toy("a")
  assert len(first) == 64 and has_images(first)
  assert first.fingerprint() == second.fingerprint()
  for index in (0, 63):
    example = first[index]
    assert example == second[index]
    pixels = np.asarray(Image.open(io.BytesIO(example.image)))
    assert pixels.shape == (16, 16, 3)
    assert example.prompt == "" and "picture" in example.texts[0]


def test_questions_have_a_prompt_and_one_word_for_an_answer():
  source = open_toy("a", texts="questions")
  assert source.fingerprint() != open_toy("a").fingerprint()
  for index in range(len(source)):
    example = source[index]
    assert example.prompt.startswith("Q: what ")
    assert len(example.texts[0].split()) == 1


def test_texts_alone_have_no_picture_and_several_captions():
  source = open_toy("a", texts="alone")
  assert not has_images(source)
  example = source[63]
  assert example.image is None
  assert example.texts[0].count("picture") >= 2


def test_unknown_texts_are_refused():
  with pytest.raises(ValueError, match="a: unknown texts 'poems'"):
    open_toy("a", texts="poems")
