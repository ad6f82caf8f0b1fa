"""A run on packed texts without any image, and tasks that are off."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from PIL import Image

from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.digits import grammar
from ddit_jax.errors import InputError
from ddit_jax.experiment.data import open_data, open_sources
from ddit_jax.experiment.trainer import train
from ddit_jax.experiment.vocabulary import make_tokenizer
from tests import tiny_run

LENGTH = 6
DOCUMENTS = [f"the {n} sat on the mat" for n in ("cat", "dog", "hen")] * 5


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "books.txt").write_text("\n".join(DOCUMENTS))
  Image.new("RGB", (9, 9), "red").save(tmp_path / "a.png")
  (tmp_path / "a.txt").write_text("the cat")
  return tmp_path


def settings(folder, **mixtures):
  """A run on a mixture for each stream that is on."""
  base = tiny_run.settings(train__num_steps="2")
  streams = {
    name: dataclasses.replace(
      stream,
      image_size=16,
      text_length=LENGTH,
      batch_size=8 if name in mixtures else 0,
      mixture={"0": dict.fromkeys(mixtures[name], 1.0)}
      if name in mixtures
      else {},
    )
    for name, stream in base.data.tasks().items()
  }
  sources = {
    "books": {
      "kind": "plain_text",
      "path": str(folder / "books.txt"),
      "documents": "line",
      "is_packed": True,
    },
    "red": {
      "kind": "image_folder",
      "path": str(folder),
      "filters": {"min_short_side": 1},
    },
  }
  data = dataclasses.replace(
    base.data, sources=sources, tokenizer="words", **streams
  )
  return dataclasses.replace(base, data=data)


def opened(folder, **mixtures):
  run = settings(folder, **mixtures)
  sources = open_sources(run.data)
  tokenizer = make_tokenizer(run.data, None, sources)
  return open_data(run, tokenizer, sources, folder)


def take(stream, count):
  found = [next(stream) for _ in range(count)]
  stream.close()
  return found


def test_texts_alone_are_packed_rows_without_images(folder):
  data = opened(folder, image_to_text=["books"])
  words = [[*text.split(), "</s>"] for text in DOCUMENTS]
  joined = list(itertools.chain(*words))
  expected = [
    joined[start : start + LENGTH]
    for start in range(0, len(joined) - LENGTH + 1, LENGTH)
  ]
  # 15 documents of 7 tokens are 17 rows of 6: two batches of 8 lack one.
  batches = [batch for batch, _ in take(data.training_loader(), 3)]
  for batch in batches:
    assert batch.text_to_image is None
    texts = batch.image_to_text
    assert texts.images is None and texts.has_image is None
    assert texts.loss_mask.shape == (8, LENGTH) and texts.loss_mask.all()
  rows = np.concatenate([batch.image_to_text.tokens for batch in batches])
  tokenizer = make_tokenizer(data.config, None, open_sources(data.config))
  found = [tokenizer.tokens(row) for row in rows[: len(expected)]]
  assert sorted(found) == sorted(expected)


def test_a_stream_of_texts_goes_on_where_another_stopped(folder):
  data = opened(folder, image_to_text=["books"])
  whole = take(data.training_loader(), 5)
  assert set(whole[1][1]) == {"image_to_text"}
  resumed = data.training_loader()
  resumed.seek(whole[1][1])
  jax.tree.map(np.testing.assert_array_equal, take(resumed, 3), [*whole[2:]])


def test_beside_pictures_a_row_has_no_image(folder):
  data = opened(folder, image_to_text=["books", "red"])
  (batch, _), *_ = take(data.training_loader(), 1)
  texts = batch.image_to_text
  assert texts.images.shape == (8, 16, 16, 3)
  assert texts.has_image.sum() == 4
  np.testing.assert_array_equal(
    texts.images.any(axis=(1, 2, 3)), texts.has_image
  )
  assert texts.loss_mask.all()


@pytest.mark.parametrize("on", ["text_to_image", "image_to_text"])
def test_an_off_stream_is_none_in_training_and_validation(folder, on):
  data = opened(folder, **{on: ["red"]})
  (batch, position), *_ = take(data.training_loader(), 1)
  for found in (batch, data.validation_batch()):
    parts = {name: getattr(found, name) for name in data.config.tasks()}
    assert [name for name, part in parts.items() if part is not None] == [on]
    assert parts[on].tokens.shape == (8, LENGTH)
  assert set(position) == {on}


@pytest.mark.parametrize("on", ["text_to_image", "image_to_text"])
def test_a_task_of_the_digit_world_can_be_off(on, tmp_path):
  base = tiny_run.settings()
  (off,) = base.data.tasks().keys() - {on}
  stream = dataclasses.replace(getattr(base.data, off), batch_size=0)
  data = dataclasses.replace(base.data, **{off: stream})
  tokenizer = word_tokenizer(grammar.words())

  def first_batches(settings):
    digits = open_data(settings, tokenizer, {}, tmp_path)
    (batch, position), *_ = take(digits.training_loader(), 1)
    return batch, digits.validation_batch(), position

  both = first_batches(base)
  single = first_batches(dataclasses.replace(base, data=data))
  for found, expected in zip(single[:2], both[:2], strict=True):
    assert getattr(found, off) is None
    jax.tree.map(
      np.testing.assert_array_equal, getattr(found, on), getattr(expected, on)
    )
  assert single[2] == {on: both[2][on]}


@pytest.fixture
def finished(folder, tmp_path):
  workdir = tmp_path / "run"
  assert train(settings(folder, image_to_text=["books"]), str(workdir))
  return workdir


@pytest.mark.slow
def test_two_steps_on_texts_alone(finished):
  losses = tiny_run.logged_losses(finished)
  assert {step for step, _, _ in losses} == {1, 2}
  assert {name for _, name, _ in losses} >= {"loss/text", "validation/total"}
  assert all(np.isfinite(value) for _, _, value in losses)


@pytest.mark.slow
def test_a_resumed_run_on_texts_alone_is_bit_identical(
  folder, finished, tmp_path
):
  run = settings(folder, image_to_text=["books"])
  early = dataclasses.replace(
    run, train=dataclasses.replace(run.train, num_steps=1)
  )
  assert train(early, str(tmp_path / "again"))
  assert train(run, str(tmp_path / "again"))
  ours, theirs = (
    tiny_run.stored_arrays(workdir, 2)
    for workdir in (tmp_path / "again", finished)
  )
  assert [
    n for n, a in theirs.items() if a.tobytes() != ours[n].tobytes()
  ] == []
  assert tiny_run.data_position(
    tmp_path / "again", 2
  ) == tiny_run.data_position(finished, 2)


def test_texts_alone_are_refused_for_the_image_loss(folder, tmp_path):
  run = settings(folder, text_to_image=["books"])
  with pytest.raises(InputError, match="'books', which is text-only"):
    train(run, str(tmp_path / "run"))
