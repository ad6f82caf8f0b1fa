"""Grids of generated images and answers at every validation."""

import numpy as np
import pytest
from PIL import Image

from ddit_jax.experiment.data import open_data
from ddit_jax.experiment.trainer import train
from ddit_jax.experiment.validation import answer_label
from ddit_jax.experiment.vocabulary import make_tokenizer
from tests import tiny_run

pytestmark = pytest.mark.usefixtures("on_one_device")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A run with sample grids at steps 4 and 6."""
  with pytest.MonkeyPatch.context() as monkeypatch:
    tiny_run.use_first_device(monkeypatch)
    folder = tmp_path_factory.mktemp("grids")
    train(tiny_run.settings(train__sample_grid_size="3"), str(folder))
  return folder


def grid_of(workdir, name, step):
  return np.asarray(Image.open(workdir / "images" / name / f"{step:08}.png"))


def test_there_is_a_grid_of_each_kind_at_every_validation(workdir):
  for name in ("generated_images", "answers"):
    steps = sorted(p.name for p in (workdir / "images" / name).iterdir())
    assert steps == ["00000004.png", "00000006.png"]
  events = b"".join(p.read_bytes() for p in (workdir / "tensorboard").iterdir())
  assert b"generated_images" in events and b"answers" in events


def test_answers_are_about_the_validation_images(workdir):
  settings = tiny_run.settings()
  tokenizer = make_tokenizer(settings.data)
  data = open_data(settings, tokenizer, {}, workdir)
  images = data.validation_batch().image_to_text.images
  grid = grid_of(workdir, "answers", 6)
  for number in range(3):
    left = 8 + number * 264
    tile = grid[8:264, left : left + 256]
    # A pixel of 16 x 16 is 16 wide.
    np.testing.assert_array_equal(tile[8::16, 8::16], images[number])


def test_grids_change_with_the_weights_and_with_nothing_else(workdir, tmp_path):
  assert (
    grid_of(workdir, "generated_images", 4)
    != grid_of(workdir, "generated_images", 6)
  ).any()
  train(tiny_run.settings(train__sample_grid_size="3"), str(tmp_path))
  for name in ("generated_images", "answers"):
    np.testing.assert_array_equal(
      grid_of(tmp_path, name, 6), grid_of(workdir, name, 6)
    )


def test_training_itself_is_not_changed(workdir, trained):
  tiny_run.assert_bit_identical(workdir, trained, tiny_run.NUM_STEPS)


def test_a_label_shows_question_answer_and_reference():
  settings = tiny_run.settings()
  tokenizer = make_tokenizer(settings.data)
  question = tokenizer.encode("Q: what number is it? A:")
  answer = tokenizer.encode("seven")
  tokens = np.array([*question, *answer, tokenizer.end_id, tokenizer.end_id])
  prompt_mask = np.arange(len(tokens)) < len(question)
  reference = tokens.copy()
  reference[len(question)] = tokenizer.encode("two")[0]
  label = answer_label(tokenizer, tokens, reference, prompt_mask)
  shown, below = label.split("\n")
  assert shown.endswith("> seven") and "what number is it?" in shown
  assert below == "reference: two"
  rows = (row[len(question) :] for row in (tokens, reference))
  alone = answer_label(tokenizer, *rows, np.zeros(3, bool))
  assert alone == "seven\nreference: two"
