"""Prompts of fixed length, and T5's tokenizer as SD3 pads it."""

import json

import numpy as np
import pytest
import transformers

from ddit_jax.data.prompt_tokenizers import (
  PromptTokenizer,
  pad_token,
  t5_prompt_tokenizer,
)
from ddit_jax.data.tokenizers import word_tokenizer

WORDS = ["a", "red", "cat", "dog"]
TEXTS = ["a red cat", "", "dog dog", "a red cat a red dog", "red " * 20]


@pytest.fixture(params=["<pad>", "</s>"])
def t5_folder(request, tmp_path):
  """A word tokenizer in T5's files; SD3 pads with <pad>, D-DiT with </s>."""
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=word_tokenizer(WORDS).backend,
    pad_token=request.param,
    eos_token="</s>",
  ).save_pretrained(tmp_path)
  return tmp_path


def test_t5_ends_with_its_end_and_pads_as_the_folder_says(t5_folder):
  tokenizer = t5_prompt_tokenizer(t5_folder, 6)
  pad = {"<pad>": 0, "</s>": 1}[pad_token(t5_folder)]
  a, red, cat, dog = range(3, 7)
  want = {
    "a red cat": [a, red, cat, 1, pad, pad],
    "": [1, *[pad] * 5],
    "a red cat a red": [a, red, cat, a, red, 1],
    "a red cat a red dog dog": [a, red, cat, a, red, 1],
  }
  for text, ids in want.items():
    got = tokenizer.encode(text)
    assert got.ids.tolist() == ids
    assert got.num_truncated == max(len(text.split()) - 5, 0)
  assert tokenizer.vocab_size == 8 and dog < 8


class CharacterBackend:
  """Ids of a text are its characters' codes."""

  def encode(self, text, *, add_special_tokens):
    assert not add_special_tokens
    return type("Encoding", (), {"ids": [ord(letter) for letter in text]})()


@pytest.mark.parametrize("start_ids", [(), (7,)])
def test_layout_equals_a_slow_one(start_ids):
  tokenizer = PromptTokenizer(
    backend=CharacterBackend(),
    start_ids=start_ids,
    end_id=8,
    pad_id=9,
    length=5,
  )
  for text in ("", "a", "abc", "abcd", "abcde", "abcdefgh"):
    letters = [ord(letter) for letter in text]
    num_cut = 0
    while len(start_ids) + len(letters) + 1 > 5:
      letters.pop()
      num_cut += 1
    want = [*start_ids, *letters, 8]
    while len(want) < 5:
      want.append(9)
    got = tokenizer.encode(text)
    np.testing.assert_array_equal(got.ids, want)
    assert got.num_truncated == num_cut


def test_an_unknown_pad_token_is_refused(t5_folder):
  path = t5_folder / "tokenizer_config.json"
  fields = json.loads(path.read_text()) | {"pad_token": "<none>"}
  path.write_text(json.dumps(fields))
  with pytest.raises(ValueError, match="its pad token '<none>' has no id"):
    t5_prompt_tokenizer(t5_folder, 6)


def test_t5_without_a_named_pad_token_is_refused(t5_folder):
  (t5_folder / "tokenizer_config.json").unlink()
  with pytest.raises(ValueError, match="names a pad_token"):
    t5_prompt_tokenizer(t5_folder, 6)
