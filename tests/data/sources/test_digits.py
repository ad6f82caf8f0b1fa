"""The digit world: as training reads it, and in place of files."""

import dataclasses
import io

import jax
import numpy as np
import pytest
from PIL import Image

from ddit_jax.data.bad_records import ReadLog
from ddit_jax.data.config import DataConfig, TaskConfig
from ddit_jax.data.example import has_images
from ddit_jax.data.sources import digits
from ddit_jax.data.sources.digits import DigitTask, open_digits
from ddit_jax.data.sources.registry import open_source
from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.data.training_data import TrainingData
from ddit_jax.digits import grammar
from ddit_jax.digits.world import WORLDS

TOKENIZER = word_tokenizer(grammar.words())
CONFIG = DataConfig(
  pool_size=64,
  validation_size=8,
  text_to_image=TaskConfig(batch_size=8),
  image_to_text=TaskConfig(
    batch_size=8,
    mixture={"0": {"caption": 1.0, "what_number": 1.0, "color_yes_no": 1.0}},
  ),
)


@pytest.fixture
def opened(tmp_path):
  def make(config=CONFIG, seed=0) -> TrainingData:
    log = ReadLog(tmp_path / "bad.jsonl")
    return TrainingData.of_digits(
      config, tokenizer=TOKENIZER, seed=seed, log=log
    )

  return make


def batches(data: TrainingData, count=3):
  loader = data.training_loader()
  found = [next(loader)[0] for _ in range(count)]
  loader.close()
  return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def with_task(name: str, **changes) -> DataConfig:
  task = dataclasses.replace(CONFIG.tasks()[name], **changes)
  return dataclasses.replace(CONFIG, **{name: task})


def test_a_seed_fixes_records_and_order(opened):
  first, again = (batches(opened()) for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  other = batches(opened(seed=1))
  assert (first.text_to_image.images != other.text_to_image.images).any()
  assert (first.image_to_text.tokens != other.image_to_text.tokens).any()


def test_batches_have_the_sizes_and_types_of_the_config(opened):
  data = opened()
  batch = batches(data, count=1)
  side = WORLDS["one_digit"].canvas
  length = CONFIG.image_to_text.text_length
  for part in (batch.text_to_image, batch.image_to_text):
    assert part.images.shape == (8, side, side, 3)
    assert part.images.dtype == np.uint8
    assert part.tokens.shape == (8, length)
    assert part.tokens.max() < TOKENIZER.mask_id
  assert batch.image_to_text.loss_mask.shape == (8, length)
  assert batch.image_to_text.has_image is None
  # Nothing can be wrong with scenes drawn in memory.
  assert data.counts() == {}


def test_no_text_loses_a_word(opened):
  data = opened(dataclasses.replace(CONFIG, validation_size=300))
  unknown = TOKENIZER.backend.token_to_id("<unk>")
  batch = data.validation_batch()
  for part in (batch.text_to_image, batch.image_to_text):
    assert (part.tokens != unknown).all()
  # Each ends with the end token.
  assert (batch.image_to_text.tokens[:, -1] == TOKENIZER.end_id).all()


def test_validation_is_the_same_for_every_seed_and_shares_no_image(opened):
  batch = opened().validation_batch()
  again = opened(seed=1).validation_batch()
  jax.tree.map(np.testing.assert_array_equal, batch, again)
  seen = batches(opened(), count=8).text_to_image.images
  seen = {image.tobytes() for image in seen}
  held_out = {image.tobytes() for image in batch.text_to_image.images}
  assert len(seen) == 64 and len(held_out) == CONFIG.validation_size
  assert not seen & held_out


def test_a_process_has_its_rows_of_validation(opened):
  whole = opened().validation_batch()
  rows = opened().validation_batch(lambda size: [1, 5])
  jax.tree.map(
    lambda part, all_: np.testing.assert_array_equal(part, all_[[1, 5]]),
    rows,
    whole,
  )


def test_kinds_of_text_follow_the_mixture_as_it_changes(opened):
  mixture = {"0": {"color_yes_no": 3.0, "caption": 1.0}, "2": {"caption": 1.0}}
  drawn = batches(opened(with_task("image_to_text", mixture=mixture)), count=4)
  # A caption has no given words.
  is_caption = drawn.image_to_text.loss_mask.all(axis=1)
  assert is_caption.reshape(4, -1).sum(axis=1).tolist() == [2, 2, 8, 8]


def test_unknown_kinds_of_text_are_refused(opened):
  config = with_task("image_to_text", mixture={"0": {"captoin": 1.0}})
  with pytest.raises(ValueError, match=r"'captoin': did you mean 'caption'\?"):
    opened(config)


def test_a_caption_too_long_for_the_text_is_refused(opened):
  data = opened(with_task("text_to_image", text_length=2))
  with pytest.raises(ValueError, match="tokens but the text length is 2"):
    data.training_loader()


def test_a_task_may_have_a_pool_of_its_own(opened):
  """8 images over and over; the texts' pool stays as it was."""
  small = with_task("text_to_image", pool_size=8)
  seen, usual = (batches(opened(c), count=4) for c in (small, CONFIG))
  images = [image.tobytes() for image in seen.text_to_image.images]
  assert (len(images), len(set(images))) == (32, 8)
  assert len({image.tobytes() for image in usual.text_to_image.images}) == 32
  jax.tree.map(
    np.testing.assert_array_equal, seen.image_to_text, usual.image_to_text
  )


def test_each_image_keeps_its_prompt_and_text():
  words = word_tokenizer(["Q:", "A:", "?", "a", "red", "seven", "is", "it"])
  images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
  found = digits._image_to_text_records(
    images, ["", "is it red?"], ["seven", "a"], words, 6
  )
  assert [r.arrays["loss_mask"].sum() for r in found] == [6, 2]
  assert words.decode(found[1].arrays["tokens"]) == "is it red? a"
  assert found.record_bytes == 4 * 4 * 3 + 6 * 4 + 6
  captions = digits._text_to_image_records(images, ["a red", "seven"], words, 4)
  for index, text in enumerate(["a red", "seven"]):
    record = captions.read(7, index)
    assert words.decode(record.arrays["tokens"]) == text
    np.testing.assert_array_equal(record.arrays["images"], images[index])


def test_records_have_names_for_logs():
  task = DigitTask("text_to_image", CONFIG, tokenizer=TOKENIZER, seed=0)
  ids = {task.mixture().record_id(position) for position in range(64)}
  assert ids == {f"scenes: record {number}" for number in range(64)}


def test_captions_come_with_image_files_that_are_always_the_same():
  first, second = open_digits("a"), open_source("a", {"kind": "digits"})
  assert len(first) == 64 and has_images(first)
  assert first.fingerprint() == second.fingerprint()
  for index in (0, 63):
    example = first[index]
    assert example == second[index]
    pixels = np.asarray(Image.open(io.BytesIO(example.image)))
    assert pixels.shape == (16, 16, 3)
    assert example.prompt == "" and "picture" in example.texts[0]


def test_questions_have_a_prompt_and_one_word_for_an_answer():
  source = open_digits("a", texts="questions")
  assert source.fingerprint() != open_digits("a").fingerprint()
  for index in range(len(source)):
    example = source[index]
    assert example.prompt.startswith("Q: what ")
    assert len(example.texts[0].split()) == 1


def test_documents_have_no_image_and_several_captions():
  source = open_digits("a", texts="documents")
  assert not has_images(source)
  example = source[63]
  assert example.image is None
  assert example.texts[0].count("picture") >= 2


def test_unknown_texts_are_refused():
  with pytest.raises(ValueError, match="a: unknown texts 'poems'"):
    open_source("a", {"kind": "digits", "texts": "poems"})
