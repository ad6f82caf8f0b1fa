"""Examples become rows of arrays."""

import numpy as np
import pytest

from ddit_jax.data import loader
from ddit_jax.data.tokenizers import word_tokenizer

WORDS = ("Q:", "A:", "?", "a", "red", "seven", "is", "it", "yes")
END, ARTICLE, RED, SEVEN = 1, 6, 7, 8


@pytest.fixture(scope="module")
def tokenizer():
  return word_tokenizer(WORDS)


def images(count):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, 4, 4, 3), np.uint8)


def test_each_image_keeps_its_caption(tokenizer):
  pictures = images(3)
  captions = ["a red seven", "seven", "a red seven"]
  found = loader.text_to_image_records(pictures, captions, tokenizer, 4)
  assert len(found) == 3
  expected = [[ARTICLE, RED, SEVEN, END], [SEVEN, END, END, END]]
  for index, row in enumerate([0, 1, 0]):
    record = found[index]
    assert (record["images"] == pictures[index]).all()
    assert record["tokens"].tolist() == expected[row]
  assert found[0]["images"].dtype == np.uint8
  assert found[0]["tokens"].dtype == np.int32


def test_a_caption_too_long_for_the_text_is_refused(tokenizer):
  with pytest.raises(ValueError, match="has 3 tokens but the text length is 2"):
    loader.text_to_image_records(images(1), ["a red seven"], tokenizer, 2)


def test_each_image_keeps_its_prompt_and_text(tokenizer):
  found = loader.image_to_text_records(
    images(2), ["", "is it red?"], ["seven", "yes"], tokenizer, 6
  )
  assert [found[i]["loss_mask"].sum() for i in (0, 1)] == [6, 2]
  assert found[0]["tokens"].tolist() == [SEVEN] + [END] * 5
  assert tokenizer.decode(found[1]["tokens"]) == "is it red? yes"
  assert found.num_truncated == 0


def test_texts_that_lose_words_are_counted_and_end_tokens_are_not(tokenizer):
  found = loader.image_to_text_records(
    images(4),
    [""] * 4,
    ["a red seven", "a red", "a", "a red seven yes"],
    tokenizer,
    2,
  )
  assert found.num_truncated == 2


def test_prompts_and_texts_must_pair_up(tokenizer):
  with pytest.raises(ValueError):
    loader.image_to_text_records(images(2), ["", ""], ["a"], tokenizer, 4)


def test_arrays_of_unequal_length_are_refused():
  with pytest.raises(ValueError, match=r"unequal .* \{'a': 2, 'b': 3\}"):
    loader.ArrayRecords({"a": np.zeros(2), "b": np.zeros(3)})
