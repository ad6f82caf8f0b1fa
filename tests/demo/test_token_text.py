"""Tokens as HTML: colours, boxes, and nothing of a text is markup."""

import numpy as np

from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.demo.token_text import state_html, text_html
from ddit_jax.demo.writing import TextState

TOKENIZER = word_tokenizer(["a", "<b>"])
A, TAG = 3, 4
END, MASK = TOKENIZER.end_id, TOKENIZER.mask_id


def state(tokens, probabilities, calls=1):
  return TextState(calls, np.array(tokens), np.array(probabilities))


def test_a_token_has_its_probability_and_is_no_markup():
  given = np.array([True, False, False, False, False])
  html = state_html(
    TOKENIZER, state([A, TAG, MASK, END, END], [1, 0.25, 0, 0.5, 1]), given
  )
  assert '<span class="ddit-token ddit-given" title="given">a</span>' in html
  assert "--p:0.250" in html and 'title="25.0%"' in html
  assert "&lt;b&gt;" in html and "<b>" not in html
  assert html.count("ddit-masked") == 1
  # Padding says no more than the first end.
  assert html.count("ddit-end") == 1 and "--p:0.500" in html


def test_all_states_are_listed_and_the_newest_is_on_top():
  given = np.zeros(3, bool)
  states = [
    state([MASK, MASK, MASK], [0, 0, 0]),
    state([MASK, A, END], [0, 0.9, 0.8], calls=3),
  ]
  html = text_html(TOKENIZER, states, given)
  assert 'data-calls="3"' in html
  assert '<li value="1">' in html and '<li value="3">' in html
  # Two states, the newest twice, and the legend's.
  assert html.count("ddit-masked") == 3 + 1 + 1 + 1
  assert text_html(TOKENIZER, [], given) == ""
