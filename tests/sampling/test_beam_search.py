"""Beam search against a slow search through all texts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.sampling.beam_search import beam_search

VOCAB, LENGTH, END = 4, 4, 2
ROWS = 3
# Logits of the next token, for each text's row and its last two tokens; a
# language model that remembers two tokens. VOCAB stands for none.
_SHAPE = (ROWS, VOCAB + 1, VOCAB + 1, VOCAB)
TABLE = np.random.default_rng(5).normal(size=_SHAPE).astype("f4")


def log_p(row, before, token):
  scores = TABLE[row][before].astype("f8")
  return (scores - np.log(np.exp(scores).sum()))[token]


def likelihood(row, text):
  total, before = 0.0, (VOCAB, VOCAB)
  for token in text:
    total += log_p(row, before, token)
    before = (before[1], token)
  return total


def all_texts():
  """Every text up to its end, or cut off at the length."""
  for text in itertools.product(range(VOCAB), repeat=LENGTH):
    if END in text:
      first = text.index(END)
      if all(token == END for token in text[first:]):
        yield text[: first + 1]
    else:
      yield text


def padded(text):
  return [*text, *[END] * (LENGTH - len(text))]


def best_text(row):
  return max(all_texts(), key=lambda text: likelihood(row, text))


def greedy_text(row):
  text, before = [], (VOCAB, VOCAB)
  while len(text) < LENGTH and (not text or text[-1] != END):
    token = int(np.argmax(TABLE[row][before]))
    text.append(token)
    before = (before[1], token)
  return text


def search(width, length=LENGTH):
  table = jnp.asarray(TABLE)
  # [block, row, ...]: the row's number and the token before.
  cache = jnp.stack([jnp.arange(ROWS), jnp.full(ROWS, VOCAB)])[None]
  cache = cache.swapaxes(1, 2)

  def continue_text(cache, newest, count):
    del count
    row, before = cache[0, :, 0], cache[0, :, 1]
    cache = jnp.stack([row, newest], axis=-1)[None]
    return table[row, before, newest], cache

  first = table[:, VOCAB, VOCAB]
  return jax.jit(
    lambda: beam_search(
      first, cache, continue_text, length=length, width=width, end_id=END
    )
  )()


def test_a_wide_search_finds_the_most_likely_text():
  found = search(width=VOCAB**LENGTH)
  want = [best_text(row) for row in range(ROWS)]
  assert found.tokens.tolist() == [padded(text) for text in want]
  # Measured 3e-8.
  np.testing.assert_allclose(
    found.log_likelihood,
    [likelihood(row, text) for row, text in enumerate(want)],
    atol=1e-5,
  )


def test_greedy_search_takes_the_most_likely_token():
  want = [greedy_text(row) for row in range(ROWS)]
  assert search(width=1).tokens.tolist() == [padded(text) for text in want]
  # In this table the two differ, so that both tests mean something.
  assert want != [list(best_text(row)) for row in range(ROWS)]


@pytest.mark.parametrize("width", [2, 3, 8])
def test_scores_are_those_of_the_texts_and_no_text_beats_the_best(width):
  found = search(width=width)
  for row in range(ROWS):
    tokens = found.tokens[row].tolist()
    text = tokens[: tokens.index(END) + 1] if END in tokens else tokens
    score = float(found.log_likelihood[row])
    np.testing.assert_allclose(score, likelihood(row, text), atol=1e-5)
    assert score <= likelihood(row, best_text(row)) + 1e-5


def test_one_token_is_a_text():
  found = search(width=2, length=1)
  want = [[int(np.argmax(TABLE[row, VOCAB, VOCAB]))] for row in range(ROWS)]
  assert found.tokens.tolist() == want
