"""Rows of tokens find their token, by hand."""

import jax.numpy as jnp
import numpy as np

from ddit_jax.data.tokenizers import extended, word_tokenizer
from ddit_jax.experiment.token_rows import TokenRows

AXES = {"head.kernel": 1, "head.bias": 0}
STORED = word_tokenizer(["a", "red", "square"])
# Ids here: pad 0, end 1, unknown 2, then these, mask last.
LONGER = extended(STORED, ["purple", "a"])


def test_known_tokens_take_their_row_and_new_ones_keep_their_own():
  rows = TokenRows.matched(AXES, STORED, LONGER)
  assert rows.new == ("purple",) and rows.unused == ()
  assert rows.sources.tolist() == [0, 1, 2, 3, 4, 5, -1, 6]
  stored = jnp.arange(14.0).reshape(2, 7)
  new = -jnp.ones((2, 8))
  np.testing.assert_array_equal(
    rows.placed("head.kernel", stored, new),
    [[0, 1, 2, 3, 4, 5, -1, 6], [7, 8, 9, 10, 11, 12, -1, 13]],
  )
  np.testing.assert_array_equal(
    rows.placed("head.bias", jnp.arange(7.0), -jnp.ones(8)),
    [0, 1, 2, 3, 4, 5, -1, 6],
  )
  assert rows.stored_shape("head.kernel", (2, 8)) == (2, 7)
  assert rows.stored_shape("head.bias", (8,)) == (7,)
  assert rows.stored_shape("other", (8,)) == (8,)


def test_the_report_names_every_token_without_a_counterpart():
  rows = TokenRows.matched(AXES, STORED, LONGER)
  assert rows.report() == [
    "newly initialised rows of head.bias and head.kernel: 'purple'"
  ]
  other = word_tokenizer(["a", "blue"])
  assert TokenRows.matched(AXES, STORED, other).report() == [
    "newly initialised rows of head.bias and head.kernel: 'blue'",
    "unused rows of head.bias and head.kernel: 'red', 'square'",
  ]
  assert TokenRows.matched(AXES, STORED, STORED) is None
