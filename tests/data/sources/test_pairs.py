"""Preference pairs from files, to batches."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from ddit_jax.data.config import TaskConfig
from ddit_jax.data.example import BadRecord, Pair, encode, has_pairs
from ddit_jax.data.image import ImageTransform
from ddit_jax.data.source_records import source_readers
from ddit_jax.data.sources.digits import open_digits
from ddit_jax.data.sources.pairs import paired
from ddit_jax.data.sources.registry import open_source
from ddit_jax.data.text import TextTransform, question_prompt
from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.data.transforms import (
  ImageToTextTransform,
  PairTransform,
  TextToImageTransform,
)
from ddit_jax.digits import grammar

TEXTS = TextTransform(tokenizer=word_tokenizer(grammar.words()))
IMAGES = ImageTransform(config=TaskConfig(batch_size=2, image_size=8))


def write(folder, *lines):
  for name, grey in (("a", 10), ("b", 200)):
    Image.new("RGB", (8, 8), (grey,) * 3).save(folder / f"{name}.png")
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (folder / "pairs.jsonl").write_text(text)
  spec = {"kind": "pairs", "path": str(folder / "pairs.jsonl")}
  return open_source("mine", spec)


def read(source, kind, index=0):
  transform = kind(images=IMAGES, texts=TEXTS)
  [reader] = source_readers({"mine": source}, transform, seed=0).values()
  return reader.read(0, index).arrays


def test_images_of_a_caption(tmp_path):
  pair = {"caption": "a red seven", "chosen": "b.png", "rejected": "a.png"}
  source = write(tmp_path, pair)
  assert has_pairs(source) and len(source) == 1
  arrays = read(source, TextToImageTransform)
  assert set(np.unique(arrays["images"])) == {200}
  assert set(np.unique(arrays["rejected"])) == {10}
  assert TEXTS.tokenizer.decode(arrays["tokens"]) == "a red seven"


def test_texts_about_an_image(tmp_path):
  pair = {"question": "is it red?", "image": "a.png"}
  source = write(tmp_path, pair | {"chosen": "yes", "rejected": "no"})
  arrays = read(source, ImageToTextTransform)
  is_text = arrays["loss_mask"]
  decode = TEXTS.tokenizer.decode
  assert decode(arrays["tokens"][is_text]) == "yes"
  assert decode(arrays["rejected"][is_text]) == "no"
  np.testing.assert_array_equal(
    arrays["tokens"][~is_text], arrays["rejected"][~is_text]
  )


def test_what_is_no_pair_is_counted(tmp_path):
  source = write(
    tmp_path,
    {"caption": "a seven", "chosen": "a.png", "rejected": "b.png"},
    {"caption": "a seven", "chosen": "a.png", "rejected": "a.png"},
    {"caption": "a seven", "chosen": "a.png"},
    {"caption": "a seven", "chosen": "../a.png", "rejected": "b.png"},
  )
  assert len(source) == 1
  assert dict(source.removed) == {
    "equal_pair": 1,
    "bad_text": 1,
    "unsafe_path": 1,
  }


def test_pairs_are_not_mixed_with_other_sources_nor_stored_as_one(tmp_path):
  pairs, captions = open_digits("p", texts="pairs"), open_digits("c")
  transform = ImageToTextTransform(images=IMAGES, texts=TEXTS)
  with pytest.raises(ValueError, match="name only pairs, or none"):
    source_readers({"p": pairs, "c": captions}, transform, seed=0)
  with pytest.raises(BadRecord, match="a preference pair"):
    encode(pairs[0])


def test_generated_pairs_differ_in_image_and_text():
  for pair in list(map(open_digits("p", texts="pairs").__getitem__, range(64))):
    assert isinstance(pair, Pair) and pair.prompt == pair.rejected.prompt
    assert pair.texts != pair.rejected.texts
    assert pair.image != pair.rejected.image


def test_both_examples_of_a_pair_are_cropped_alike():
  config = TaskConfig(batch_size=1, image_size=8, crop="random")
  transform = PairTransform(
    one=TextToImageTransform(images=ImageTransform(config=config), texts=TEXTS),
    array="images",
  )
  example = open_digits("p", texts="pairs")[0]
  same = Pair(
    record_id="x",
    image=example.image,
    texts=("seven",),
    rejected=dataclasses.replace(example, image=recoloured(example.image)),
  )
  arrays = transform(same, np.random.default_rng(0)).arrays
  np.testing.assert_array_equal(arrays["images"], arrays["rejected"][..., ::-1])


def recoloured(png: bytes) -> bytes:
  """The same image, blue where it was red."""
  file = io.BytesIO()
  pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
  Image.fromarray(np.ascontiguousarray(pixels[..., ::-1])).save(file, "png")
  return file.getvalue()


def transformed(pair, kind, images=IMAGES):
  array = "images" if kind is TextToImageTransform else "tokens"
  transform = PairTransform(one=kind(images=images, texts=TEXTS), array=array)
  return transform(pair, np.random.default_rng(0)).arrays


def test_pairs_of_the_other_task_are_no_pairs(tmp_path):
  images = {"caption": "a red seven", "chosen": "b.png", "rejected": "a.png"}
  texts = {"question": "is it red?", "image": "a.png"}
  source = write(tmp_path, images, texts | {"chosen": "yes", "rejected": "no"})
  with pytest.raises(BadRecord, match="equal_pair: both have the same tokens"):
    transformed(source[0], ImageToTextTransform)
  with pytest.raises(BadRecord, match="equal_pair: both have the same images"):
    transformed(source[1], TextToImageTransform)


def test_each_text_of_a_pair_has_its_own_mask(tmp_path):
  pair = {"question": "is it red?", "chosen": "yes", "rejected": "xyzzy red"}
  arrays = transformed(write(tmp_path, pair)[0], ImageToTextTransform)
  length = len(TEXTS.tokenizer.encode(question_prompt("is it red?")))
  wanted = np.arange(TEXTS.length) >= length
  np.testing.assert_array_equal(arrays["loss_mask"], wanted)
  wanted[length] = False
  np.testing.assert_array_equal(arrays["rejected_loss_mask"], wanted)


def test_the_image_of_two_texts_is_read_once_and_skips_are_said_once(
  tmp_path, caplog
):
  pair = {"question": "is it red?", "image": "a.png", "chosen": "yes"}
  source = write(tmp_path, pair | {"rejected": "no"}, pair)
  assert caplog.text.count("skipped") == 1
  assert source[0].image is not None and source[0].rejected.image is None


def test_either_text_of_a_pair_keeps_its_image_from_being_mirrored():
  config = TaskConfig(batch_size=1, image_size=8, flip_probability=1.0)
  images = ImageTransform(config=config)
  example = open_digits("p", texts="captions")[0]

  def pixels(chosen, rejected):
    rejected = dataclasses.replace(example, texts=(rejected,))
    pair = paired(dataclasses.replace(example, texts=(chosen,)), rejected)
    return transformed(pair, ImageToTextTransform, images)["images"]

  mirrored, kept = pixels("red", "seven"), pixels("left", "seven")
  np.testing.assert_array_equal(mirrored, kept[:, ::-1])
  np.testing.assert_array_equal(pixels("seven", "left"), kept)
