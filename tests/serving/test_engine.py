"""Calls of the pipeline show their rows as they form, and end unwanted."""

import dataclasses

import numpy as np
import pytest

from ddit_jax.sampling.text_sampler import Texts
from ddit_jax.serving.batcher import Unwanted
from ddit_jax.serving.engine import (
  Engine,
  ImageGroup,
  ImageRow,
  TextGroup,
  TextRow,
  _showing_texts,
)

SIZE = (16, 16)


@pytest.fixture(scope="module")
def engine(pipeline):
  return Engine(pipeline, batch_size=2)


def watched(row, seen, *, is_wanted=True):
  def watch(*state):
    seen.append(state)
    return is_wanted

  return dataclasses.replace(row, watch=watch)


def test_watched_images_are_seen_step_by_step(engine):
  image = np.full((*SIZE, 3), 90, np.uint8)
  mask = np.zeros(SIZE, np.float32)
  mask[:, 8:] = 1
  group = ImageGroup(SIZE, (("image.strength", 1.0),), ("image", "mask_image"))
  row, seen = ImageRow("a red seven", "", 3, image, mask), []
  (drawn,) = engine.run(group, [watched(row, seen)])
  # The tiny run has two steps.
  assert [step for step, _ in seen] == [0, 1]
  np.testing.assert_array_equal(seen[-1][1], drawn)
  np.testing.assert_array_equal(drawn[:, :8], image[:, :8])
  assert (drawn[:, 8:] != 90).any() and (seen[0][1] != drawn).any()
  with pytest.raises(Unwanted):
    engine.run(group, [watched(row, seen, is_wanted=False)])
  assert len(seen) == 3


def test_watched_texts_are_seen_call_by_call(engine, pipeline):
  tokens, prompt_mask = pipeline.template("a")
  group = TextGroup((("text.order", "first_hitting"),))
  image = np.full((*SIZE, 3), 90, np.uint8)
  row, seen, others = TextRow(image, tokens, prompt_mask, 3), [], []
  want = pipeline.complete(
    [image] * 2, ["a"] * 2, sample=dict(group.settings), indices=[3, 3]
  )
  rows = [watched(row, seen), watched(row, others, is_wanted=False)]
  # Nobody wants one of them, but somebody the other.
  assert engine.run(group, rows) == want
  assert [calls for calls, *_ in seen] == list(range(1, len(seen) + 1))
  assert len(others) == len(seen)
  _, last, probabilities = seen[-1]
  assert (last != pipeline.tokenizer.mask_id).all()
  assert (probabilities > 0).all()
  with pytest.raises(Unwanted):
    engine.run(group, rows[1:] * 2)


def test_a_finished_text_waits_for_one_that_nobody_wants():
  row = TextRow(*(np.zeros(1),) * 3, seed=0)
  finished, gone = watched(row, []), watched(row, [], is_wanted=False)
  texts = Texts(*np.zeros((2, 1, 3)), calls=np.ones(1, np.int32))
  # Only the second is in the call.
  _showing_texts([finished, gone])(None, np.array([1]), texts)
  with pytest.raises(Unwanted):
    _showing_texts([gone])(None, np.array([0]), texts)
