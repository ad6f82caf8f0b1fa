"""What the tab Describe and ask asks for becomes a job."""

import numpy as np
import pytest
from PIL import Image

from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.demo.writing import (
  Writing,
  blanks_template,
  text_settings,
  writing_job,
)
from ddit_jax.errors import InputError
from ddit_jax.pipelines.inputs import sample_config

TOKENIZER = word_tokenizer(["a", "red", "blue", "seven", "."])
A, RED, BLUE, SEVEN = range(3, 7)
END, MASK = TOKENIZER.end_id, TOKENIZER.mask_id
IMAGE = Image.new("RGB", (20, 16), "red")


@pytest.mark.parametrize(
  ("text", "tokens", "is_given"),
  [
    ("a _ seven", [A, MASK, SEVEN, END, END, END], "101111"),
    ("_ _ seven...", [MASK, MASK, SEVEN], "001000"),
    ("a red …", [A, RED], "110000"),
    ("_", [MASK, END, END, END, END, END], "011111"),
    ("a _.", [A, MASK, 7, END, END, END], "101111"),
  ],
)
def test_blanks_are_masks_and_dots_let_the_text_go_on(text, tokens, is_given):
  got, given = blanks_template(TOKENIZER, text, 6)
  assert got[: len(tokens)].tolist() == tokens
  assert given.tolist() == [x == "1" for x in is_given]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("a red seven", "nothing to fill in"),
    ("a _ dog", "does not know 'dog'"),
    ("a a a a a a _", "has 7 tokens, this model's have 6"),
    ("_ _ _ _ _ _ ...", "has 6 tokens"),
    ("_ </s>", "does not know '</s>'"),
  ],
)
def test_texts_that_cannot_be_filled_are_refused(text, message):
  with pytest.raises(ValueError, match=message):
    blanks_template(TOKENIZER, text, 6)


def test_a_way_is_a_preset_or_an_order_with_its_settings(pipeline):
  options = {"num_steps": 7, "temperature": 0.5}
  assert text_settings("", **options) == {}
  assert text_settings("turbo", **options) == {"text.preset": "turbo"}
  ordered = text_settings("margin", **options)
  text = sample_config(pipeline.sample, ordered).text
  assert (text.order, text.num_steps, text.temperature) == ("margin", 7, 0.5)


def test_a_job_has_the_template_of_its_task(pipeline):
  def job(text, task, **options):
    return writing_job(IMAGE, text, pipeline, task=task, **options)

  _, (row,), _ = job("", "describe", seed=4)
  assert row.image.shape == (16, 16, 3) and row.seed == 4
  assert not row.prompt_mask.any()
  _, (row,), _ = job("is it red?", "ask")
  asked = pipeline.tokenizer.decode(row.tokens[row.prompt_mask])
  assert asked == "Q: is it red? A:"
  group, (row,), _ = job(
    "a _ seven", "fill in", settings={"text.preset": "fast"}
  )
  assert (~row.prompt_mask).sum() == 1
  assert group.settings == (("text.preset", "fast"),)
  for text, task, message in (
    ("  ", "ask", "there is no question"),
    ("is it sad?", "ask", "not know 'sad'"),
    ("a red seven", "fill in", "nothing to fill in"),
  ):
    with pytest.raises(InputError, match=message):
      job(text, task)
  with pytest.raises(InputError, match="there is no image"):
    writing_job(None, "", pipeline, task="describe")


@pytest.mark.parametrize(
  ("given", "text"), [("1100", "seven"), ("0010", "a red seven")]
)
def test_the_text_is_what_was_written_or_the_whole(given, text):
  is_given = np.array([x == "1" for x in given])
  writing = Writing(TOKENIZER, is_given)
  assert writing.text == ""
  probabilities = np.ones(4, np.float32)
  writing.see(1, np.array([A, RED, MASK, END]), probabilities)
  assert writing.text == ""
  writing.see(2, np.array([A, RED, SEVEN, END]), probabilities)
  assert writing.text == text and writing.states[-1].calls == 2
