"""Held-out records are never trained on, and images are held out whole."""

import types

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from ddit_jax.data.bad_records import ReadLog
from ddit_jax.data.config import DataConfig, TaskConfig
from ddit_jax.data.example import Example
from ddit_jax.data.held_out import HeldOut, Part
from ddit_jax.data.image import ImageConfig, ImageTransform
from ddit_jax.data.text import TextConfig, TextTransform
from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.data.training_data import SourceTask, TrainingData
from ddit_jax.data.transforms import ImageToTextTransform
from tests.source_files import encoded

NUMBERS = [f"n{i}" for i in range(100)]
TOKENIZER = word_tokenizer(NUMBERS)


def source(images):
  """A source of which only the images' names matter."""
  return types.SimpleNamespace(image_of=lambda index: images[index])


@hypothesis.given(
  strategies.lists(strategies.integers(0, 20), max_size=120),
  strategies.floats(0.0, 0.5),
)
@hypothesis.settings(max_examples=100, deadline=None)
def test_no_image_is_on_both_sides(numbers, share):
  images = [f"{number}.png" for number in numbers]
  held = HeldOut(held_out_share=share).indices(source(images), len(images))
  assert len(held) <= share * len(images)
  others = set(range(len(images))) - set(held.tolist())
  assert not {images[i] for i in held} & {images[i] for i in others}


def test_equal_images_are_held_out_in_every_source():
  images = [f"{i}.png" for i in range(1000)]
  some = HeldOut(held_out_share=0.05)
  captions = some.indices(source(images), 1000)
  questions = [images[i // 3] for i in range(3000)]
  asked = some.indices(source(questions), 3000)
  assert len(captions) == 50 and len(asked) == 150
  assert {images[i] for i in captions} == {questions[i] for i in asked}


def test_nothing_can_be_held_out_of_one_image_or_few_records():
  some = HeldOut(held_out_share=0.05)
  assert len(some.indices(source(["a.png"] * 100), 100)) == 0
  assert len(some.indices(object(), 19)) == 0
  assert some.indices(object(), 20).tolist() == [0]
  most = HeldOut(held_out_share=0.5, validation_size=4)
  assert most.indices(object(), 100).tolist() == [0, 25, 50, 75]
  # Texts without an image are records of their own.
  assert len(some.indices(source([None] * 100), 100)) == 5


@pytest.mark.parametrize("held", [[], [0], [3, 4], [0, 4, 9], [9]])
def test_both_parts_give_every_row_once(held):
  rows = Numbered(10)
  held = np.array(held, int)
  trained, validated = (
    Part(rows, held, has_listed=flag) for flag in (False, True)
  )
  found = [
    [part[i].record_id for i in range(len(part))]
    for part in (trained, validated)
  ]
  assert found[1] == [str(i) for i in held]
  assert found[0] == [str(i) for i in range(10) if i not in held]


class Numbered:
  """Pictures whose text is their number."""

  def __init__(self, count, first=0):
    self.name, self.removed = "web", {}
    self._count, self._first = count, first

  def __len__(self):
    return self._count

  def __getitem__(self, index):
    text = NUMBERS[self._first + index]
    return Example(record_id=str(index), image=encoded(4, 4), texts=(text,))

  def fingerprint(self):
    return ""


def task(count, validation=None, **changes):
  return SourceTask(
    "image_to_text",
    TaskConfig(batch_size=4, mixture={"0": {"web": 1.0}}),
    sources={"web": Numbered(count)},
    transform=ImageToTextTransform(
      images=ImageTransform(config=ImageConfig(image_size=4)),
      texts=TextTransform(
        tokenizer=TOKENIZER, config=TextConfig(text_length=1)
      ),
    ),
    seed=0,
    held_out=HeldOut(**changes),
    validation_sources=validation or {},
  )


def texts(mixture, count=200):
  return {
    TOKENIZER.decode(mixture[place].arrays["tokens"]) for place in range(count)
  }


def test_training_and_validation_share_no_record():
  some = task(60)
  trained, validated = texts(some.mixture()), texts(some.validation())
  assert validated == {"n0", "n20", "n40"}
  assert trained == set(NUMBERS[:60]) - validated
  assert some.validation_reports() == [
    "validation records of web: 3 of 60 records, held out from training"
  ]


def test_small_sources_say_that_they_validate_on_what_they_train():
  some = task(10)
  assert texts(some.mixture()) == texts(some.validation()) == set(NUMBERS[:10])
  assert some.validation_reports() == [
    "validation records of web: some of the 10 that it is trained on"
  ]


def test_a_validation_source_takes_the_place_of_held_out_records():
  some = task(60, {"web": Numbered(7, first=80)})
  assert texts(some.mixture()) == set(NUMBERS[:60])
  assert texts(some.validation()) == set(NUMBERS[80:87])
  assert some.validation_reports() == [
    "validation records of web: 7 of its own source"
  ]


def test_both_tasks_report_a_source_once(tmp_path):
  mixture = {"0": {"web": 1.0}}
  config = DataConfig(
    sources={"web": {"kind": "image_folder", "path": "x"}},
    text_to_image=TaskConfig(batch_size=0, mixture=mixture),
    image_to_text=TaskConfig(batch_size=4, mixture=mixture),
  )
  data = TrainingData.of_sources(
    config,
    {"web": Numbered(60)},
    transforms={"image_to_text": task(1)._transform},
    caches={},
    seed=0,
    log=ReadLog(tmp_path / "bad_records.jsonl"),
  )
  assert data.description.splitlines() == [
    "source web: 60 records, skipped {}",
    "validation records of web: 3 of 60 records, held out from training",
  ]
