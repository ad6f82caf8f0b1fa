"""Prompts are those of D-DiT's release, to the last blank."""

import pytest

from ddit_jax.data.text import bare_question, question_prompt
from ddit_jax.digits.questions import presence_question, prompt_text

SHORT_ANSWER = "Answer the question using a single word or phrase."
UNANSWERABLE = "Reply unanswerable if information is not present in the image."


@pytest.mark.parametrize(
  ("question", "instruction", "prompt"),
  [
    ("What is it?", "", "Q: What is it? A: "),
    (
      "What is it?",
      SHORT_ANSWER,
      "Q: What is it? Answer the question using a single word or phrase. A: ",
    ),
    (
      "What is it?",
      f"{SHORT_ANSWER} {UNANSWERABLE}",
      "Q: What is it? Answer the question using a single word or phrase. "
      "Reply unanswerable if information is not present in the image. A: ",
    ),
    (
      "\nWhich one?\nA. cat\nB. dog\nAnswer with the option's letter.",
      "",
      "Q: Which one? A. cat B. dog Answer with the option's letter. A: ",
    ),
  ],
)
def test_prompts_are_those_of_the_release(question, instruction, prompt):
  assert question_prompt(question, instruction) == prompt


def test_digits_are_asked_about_in_the_same_words():
  question = presence_question(7, is_present=True)
  assert question_prompt(question.text) == prompt_text(question)


def test_an_instruction_is_not_repeated():
  """It may have been typed with the question."""
  typed = f"What is it? {SHORT_ANSWER}"
  assert question_prompt(typed, SHORT_ANSWER) == question_prompt(typed)


@pytest.mark.parametrize(
  ("text", "question"),
  [
    ("Q: is it red? A: ", "is it red?"),
    ("Q:is it red? A:", "is it red?"),
    ("is it red?", "is it red?"),
    ("What is USA: a country?", "What is USA: a country?"),
    ("Q: what is the USA:", "Q: what is the USA:"),
  ],
)
def test_a_whole_prompt_is_taken_apart(text, question):
  assert bare_question(text) == question
