"""Which text a visit draws, and what its tokens are."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddit_jax.data.example import BadRecord, Example
from ddit_jax.data.text import (
  TextConfig,
  TextTransform,
  names_a_side,
)
from ddit_jax.data.tokenizers import word_tokenizer

TOKENIZER = word_tokenizer(["Q:", "A:", "?", "a", "b", "c", "d"])
END = TOKENIZER.end_id
A, B, C, D = (TOKENIZER.encode(word)[0] for word in "abcd")


def transform(**options):
  config = TextConfig(**({"text_length": 4} | options))
  return TextTransform(tokenizer=TOKENIZER, config=config)


def example(texts=(), rewritten=()):
  return Example(
    record_id="r", image=None, texts=tuple(texts), rewritten=tuple(rewritten)
  )


def drawn(found, options, count=2000):
  rng = np.random.default_rng(0)
  return collections.Counter(
    transform(**options).draw(found, rng) for _ in range(count)
  )


def test_every_answer_has_its_share():
  counts = drawn(example("abcd"), {})
  assert set(counts) == set("abcd")
  # Four standard deviations of a binomial of 2000 and 1/4.
  assert all(abs(n - 500) < 4 * np.sqrt(375) for n in counts.values())


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_rewritten_captions_have_their_share(probability):
  options = {"rewritten_probability": probability}
  counts = drawn(example(["own"], ["new", "newer"]), options)
  share = 1 - counts["own"] / 2000
  assert abs(share - probability) <= 4 * np.sqrt(
    probability * (1 - probability) / 2000
  )
  if probability:
    assert counts["new"] and counts["newer"]


def test_one_kind_of_text_is_enough():
  none = {"rewritten_probability": 0.0}
  assert set(drawn(example([], ["new"]), none, 9)) == {"new"}
  assert set(drawn(example(["own"]), {}, 9)) == {"own"}


def test_a_draw_repeats_with_its_seed_and_takes_two_numbers():
  for found in (example("abcd"), example("ab", "cd"), example([], "cd")):
    rng, again = np.random.default_rng(3), np.random.default_rng(3)
    assert transform().draw(found, rng) == transform().draw(found, again)
    reference = np.random.default_rng(3)
    reference.random(2)
    assert rng.bit_generator.state == reference.bit_generator.state


@pytest.mark.parametrize(
  "found", [example(), example(["", " \n"]), example([""])]
)
def test_a_blank_text_is_a_bad_record(found):
  with pytest.raises(BadRecord) as caught:
    transform().draw(found, np.random.default_rng(0))
  assert (caught.value.reason, caught.value.record_id) == ("empty_text", "r")


def test_prompt_text_and_padding_are_laid_out():
  found = transform(text_length=6).tokenize_and_pad("Q: a ? A: ", "b", "r")
  prompt = TOKENIZER.encode("Q: a ? A: ")
  assert found.tokens.tolist() == [*prompt, B, END]
  assert found.tokens.dtype == np.int32
  assert found.loss_mask.tolist() == [False] * 4 + [True] * 2
  assert found.num_truncated == 0


def test_a_long_text_is_cut_and_counted():
  found = transform(text_length=2).tokenize_and_pad("", "a b c d", "r")
  assert found.tokens.tolist() == [A, B]
  assert found.num_truncated == 3  # two words and the end token


@pytest.mark.parametrize(
  ("prompt", "text", "reason"),
  [
    ("a b c d", "a", "wrong_length"),
    ("", "a " * 100_000, "wrong_length"),
    ("", "half of a pair: \ud800", "bad_text"),
    ("\udfff", "a", "bad_text"),
    ("", "a </s> b", "bad_text"),
    ("", "a <extra_id_0>", "bad_text"),
    ("<extra_id_0>", "a", "bad_text"),
    ("</s>", "a", "bad_text"),
  ],
)
def test_texts_that_cannot_be_learned_are_bad_records(prompt, text, reason):
  with pytest.raises(BadRecord) as caught:
    transform().tokenize_and_pad(prompt, text, "r")
  assert (caught.value.reason, caught.value.record_id) == (reason, "r")


def test_unknown_words_are_no_error():
  found = transform().tokenize_and_pad("", "a zebra \0 \N{PILE OF POO}", "r")
  assert found.tokens[0] == A and END not in found.tokens[:2]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_gives_tokens_or_a_bad_record(prompt, text):
  try:
    found = transform(text_length=8).tokenize_and_pad(prompt, text, "r")
  except BadRecord:
    return
  assert found.tokens.shape == found.loss_mask.shape == (8,)
  assert TOKENIZER.mask_id not in found.tokens


@pytest.mark.parametrize(
  "text",
  [
    "a dog left of a cat",
    "Right!",
    "the RIGHTMOST car",
    "left-hand traffic",
    "his lefthand glove",
    "turn (leftwards)",
    "the hands go counter-clockwise",
    "anticlockwise",
    "two\nlefts",
    "1girl, looking_left, solo",
    "hand_on_right_hip",
    "left_counter_clockwise",
    "facing_left2",
  ],
)
def test_sides_are_named(text):
  assert names_a_side(text)
  assert names_a_side("a cat", text)


@pytest.mark.parametrize(
  "text",
  [
    "",
    "a bright cleft",
    "upright",
    "copyright",
    "righteous",
    "leftover",
    "b_righteous",
  ],
)
def test_other_words_name_no_side(text):
  assert not names_a_side(text)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"text_length": 0}, "text_length must be in 1 to 1048576, got 0"),
    ({"rewritten_probability": -0.1}, r"in \[0, 1\], got -0.1"),
  ],
)
def test_senseless_settings_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    transform(**options)
