"""Prompt, text, end token, padding: by hand."""

import numpy as np
import pytest

from ddit_jax.data.text import (
  answer_text,
  caption_tokens,
  check_prompt,
  instructions_file,
  instructions_from,
  masked_template,
  tokenize_and_pad,
)
from ddit_jax.data.tokenizers import word_tokenizer

# Ids: 0 pad, 1 end, 2 unknown, then these, then the mask.
WORDS = ("Q:", "A:", "?", "a", "red", "seven", "is", "it", "yes")
END, Q, A, MARK, ARTICLE, RED, SEVEN, IS, IT, YES = 1, *range(3, 12)


@pytest.fixture(scope="module")
def tokenizer():
  return word_tokenizer(WORDS)


def test_a_caption_is_all_target_and_padded_with_ends(tokenizer):
  tokenized = tokenize_and_pad(tokenizer, "", "a red seven", 6)
  assert tokenized.tokens.tolist() == [ARTICLE, RED, SEVEN, END, END, END]
  assert tokenized.tokens.dtype == np.int32
  assert tokenized.loss_mask.tolist() == [True] * 6
  assert tokenized.num_truncated == 0


def test_a_question_is_given_and_its_answer_is_target(tokenizer):
  tokenized = tokenize_and_pad(tokenizer, "Q: is it red? A: ", "yes", 9)
  assert tokenized.tokens.tolist() == [Q, IS, IT, RED, MARK, A, YES, END, END]
  assert tokenized.loss_mask.tolist() == [False] * 6 + [True] * 3


def test_a_word_without_an_id_is_no_target_and_counted(tokenizer):
  tokenized = tokenize_and_pad(tokenizer, "Q: A: ", "a purple seven", 6)
  assert tokenized.tokens.tolist() == [Q, A, ARTICLE, 2, SEVEN, END]
  assert tokenized.loss_mask.tolist() == [False] * 2 + [True, False, True, True]
  assert tokenized.num_unknown == 1


@pytest.mark.parametrize(("length", "lost"), [(4, 0), (3, 1), (2, 2), (1, 3)])
def test_what_does_not_fit_is_counted(tokenizer, length, lost):
  tokenized = tokenize_and_pad(tokenizer, "", "a red seven", length)
  expected = [ARTICLE, RED, SEVEN, END][:length]
  assert tokenized.tokens.tolist() == expected
  assert tokenized.num_truncated == lost


def test_a_prompt_needs_room_for_an_answer(tokenizer):
  assert tokenize_and_pad(tokenizer, "a red", "seven", 3).num_truncated == 1
  with pytest.raises(ValueError) as caught:
    tokenize_and_pad(tokenizer, "a red", "seven", 2)
  assert str(caught.value) == (
    "the prompt 'a red' has 2 tokens, which leaves no room in a text of 2: "
    "shorten it, or train with a larger text_length of the task"
  )


def test_a_caption_may_lose_its_end_token_but_no_word(tokenizer):
  tokens = caption_tokens(tokenizer, "a red seven", 3)
  assert tokens.tolist() == [ARTICLE, RED, SEVEN]
  with pytest.raises(ValueError) as caught:
    caption_tokens(tokenizer, "a red seven", 2)
  assert str(caught.value).startswith(
    "the caption 'a red seven' has 3 tokens but the text length is 2: "
  )


def test_the_empty_caption_is_nothing_but_ends(tokenizer):
  assert caption_tokens(tokenizer, "", 3).tolist() == [END] * 3


def test_the_canvas_fixes_the_prompt_and_nothing_else(tokenizer):
  tokens, prompt_mask = masked_template(tokenizer, "Q: is it", 5)
  assert tokens[:3].tolist() == [Q, IS, IT]
  assert prompt_mask.tolist() == [True, True, True, False, False]
  assert not masked_template(tokenizer, "", 4)[1].any()


def test_training_and_sampling_lay_a_prompt_out_alike(tokenizer):
  prompt = "Q: is it red? A: "
  trained = tokenize_and_pad(tokenizer, prompt, "yes", 9)
  tokens, prompt_mask = masked_template(tokenizer, prompt, 9)
  assert (prompt_mask == ~trained.loss_mask).all()
  assert (tokens[prompt_mask] == trained.tokens[prompt_mask]).all()


def test_the_answer_is_what_was_filled_in_up_to_its_end(tokenizer):
  tokens = np.array([Q, IS, IT, YES, RED, END, SEVEN], np.int32)
  prompt_mask = np.arange(7) < 3
  assert answer_text(tokenizer, tokens, prompt_mask) == "yes red"
  assert answer_text(tokenizer, tokens, np.arange(7) < 5) == ""
  # Any pattern: the given words in between are not part of the answer.
  prompt_mask = np.array([True, False, True, False, True, False, False])
  assert answer_text(tokenizer, tokens, prompt_mask) == "is yes"


def test_unknown_words_are_named_not_lost(tokenizer):
  check_prompt(tokenizer, "a red seven?")
  with pytest.raises(ValueError) as caught:
    check_prompt(tokenizer, "a Red seven dog")
  assert str(caught.value) == (
    "the tokenizer of this checkpoint does not know 'Red', 'dog' in 'a Red "
    "seven dog': use the words of its training texts"
  )
  with pytest.raises(ValueError, match="'n4' and 3 more in"):
    check_prompt(tokenizer, " ".join(f"n{i}" for i in range(8)))


def test_a_prompt_cannot_smuggle_in_a_mask(tokenizer):
  with pytest.raises(ValueError, match="does not know '<extra_id_0>'"):
    check_prompt(tokenizer, "a <extra_id_0> seven")


def test_a_checkpoint_keeps_the_instructions():
  found = ("", "Answer briefly: où?")
  assert instructions_from(instructions_file(found)) == found
  assert instructions_from({}) == ()
