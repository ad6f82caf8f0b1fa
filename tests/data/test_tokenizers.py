"""The word tokenizer of closed grammars, and what any tokenizer must have."""

import json

import hypothesis
import pytest
from hypothesis import strategies
from tokenizers import Tokenizer as Backend
from tokenizers import models

from ddit_jax.data.tokenizers import (
  from_backend,
  from_files,
  word_tokenizer,
)
from ddit_jax.digits import grammar

WORDS = ("Q:", "A:", "?", ",", "a", "is", "it", "red", "seven", "two")
PAD_ID, END_ID, UNKNOWN_ID = 0, 1, 2


@pytest.fixture(scope="module")
def tokenizer():
  return word_tokenizer(WORDS)


def test_ids_follow_the_documented_order(tokenizer):
  assert tokenizer.vocab_size == len(WORDS) + 4
  assert (tokenizer.end_id, tokenizer.mask_id) == (1, len(WORDS) + 3)
  assert tokenizer.encode("Q: is it red, two? A: ") == [
    3,
    8,
    9,
    10,
    6,
    12,
    5,
    4,
  ]
  assert tokenizer.tokens([0, 1, 2, 3, 13]) == [
    "<pad>",
    "</s>",
    "<unk>",
    "Q:",
    "<extra_id_0>",
  ]


def test_no_end_token_is_added(tokenizer):
  assert tokenizer.encode("a red seven") == [7, 10, 11]
  assert tokenizer.encode("") == []


def test_decoding_stops_at_the_first_end_token(tokenizer):
  ids = tokenizer.encode("a red seven")
  assert tokenizer.decode([*ids, END_ID, 3, END_ID]) == "a red seven"
  assert tokenizer.decode(ids) == "a red seven"
  assert tokenizer.decode([END_ID]) == ""


def test_marks_have_no_blank_before_them(tokenizer):
  assert tokenizer.decode(tokenizer.encode("red , two ?")) == "red, two?"


@hypothesis.given(
  strategies.lists(strategies.sampled_from([w for w in WORDS if w.isalpha()]))
)
@hypothesis.settings(max_examples=50, deadline=None)
def test_texts_of_known_words_come_back(words):
  text = " ".join(words)
  tokenizer = word_tokenizer(WORDS)
  assert tokenizer.unknown_pieces(text) == []
  assert tokenizer.decode(tokenizer.encode(text)) == text


def test_lost_words_and_special_tokens_are_found(tokenizer):
  text = "a blue seven, Red blue </s> <extra_id_0> <pad> <unk>"
  assert tokenizer.unknown_pieces(text) == [
    *("blue", "Red", "</s>", "<extra_id_0>", "<pad>", "<unk>")
  ]
  assert UNKNOWN_ID in tokenizer.encode("blue")
  assert tokenizer.unknown_pieces("a red seven, is it?") == []


def test_no_sentence_of_the_digit_grammar_is_lost():
  tokenizer = word_tokenizer(grammar.words())
  text = "Q: how many numbers are there? A: two"
  assert tokenizer.unknown_pieces(text) == []
  assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_files_of_a_checkpoint_give_the_same_tokenizer(tokenizer):
  files = tokenizer.files()
  assert list(files) == ["tokenizer.json"]
  assert json.loads(files["tokenizer.json"])
  again = from_files(files)
  for text in ("a red seven?", "Q: is it blue? A: "):
    assert again.encode(text) == tokenizer.encode(text)
  assert again.decode([7, 10, 5]) == tokenizer.decode([7, 10, 5])
  assert (again.end_id, again.mask_id, again.vocab_size) == (1, 13, 14)
  assert again.files() == files


def test_files_without_a_tokenizer_are_refused():
  with pytest.raises(ValueError, match=r"no tokenizer\.json among .* \['x'\]"):
    from_files({"x": b""})


@pytest.mark.parametrize(
  ("vocabulary", "message"),
  [
    (["a", "</s>"], "the mask token <extra_id_0>, whose id is None"),
    (["a", "<extra_id_0>"], r"one of the end tokens .* and has \[\]"),
    (["</s>", "<|endoftext|>", "<extra_id_0>"], "needs one of the end tokens"),
    (["</s>", "<extra_id_0>", "a"], "has id 1 but must be the last of 3"),
  ],
)
def test_a_tokenizer_without_the_special_tokens_is_refused(vocabulary, message):
  ids = {word: i for i, word in enumerate(vocabulary)}
  with pytest.raises(ValueError, match=message):
    from_backend(Backend(models.WordLevel(ids, unk_token="a")))


def test_a_word_given_twice_is_refused():
  with pytest.raises(ValueError, match="has repetitions"):
    word_tokenizer(["a", "b", "a"])
  with pytest.raises(ValueError, match=r"special tokens \['</s>'\]"):
    word_tokenizer(["a", "</s>"])
