"""T2I-CompBench's product of probabilities."""

import pytest

from ddit_jax.evaluation.t2i_compbench import image_score


def test_products_are_float32_and_have_four_decimals():
  assert image_score([]) == "1.0000"
  assert image_score([0.2435, 0.5022]) == "0.1223"
  # In float64 it would be 0.00005 and print as 0.0001 or 0.0000 by luck.
  assert image_score([0.5] * 8) == "0.0039"


def test_more_than_eight_phrases_raise():
  with pytest.raises(ValueError, match="at most 8"):
    image_score([0.5] * 9)
