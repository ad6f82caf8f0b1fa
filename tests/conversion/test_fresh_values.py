"""Fresh parameters: their spread, and that seeds repeat."""

import dataclasses

import numpy as np
import pytest

from ddit_jax.conversion.fresh_values import fresh_values
from ddit_jax.conversion.plan import FreshPiece

PIECE = FreshPiece(
  array="params/a",
  block=None,
  index=(slice(None), slice(None)),
  shape=(300, 200),
  init="normal(0, 0.02)",
)


def test_zeros_and_identity():
  zeros = fresh_values(dataclasses.replace(PIECE, init="zeros"), 0)
  assert zeros.shape == (300, 200) and not zeros.any()
  square = dataclasses.replace(PIECE, init="identity", shape=(3, 3))
  np.testing.assert_array_equal(fresh_values(square, 0), np.eye(3))


@pytest.mark.parametrize("std", ["0.02", "1.5", "2.5e-05"])
def test_normal(std):
  piece = dataclasses.replace(PIECE, init=f"normal(0, {std})")
  values = fresh_values(piece, 0) / float(std)
  # 60,000 draws: standard errors are 0.0041 and 0.0029; measured 0.0013.
  assert abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.015
  assert values.dtype == np.float32


def test_equal_seeds_give_equal_numbers():
  np.testing.assert_array_equal(fresh_values(PIECE, 5), fresh_values(PIECE, 5))
  others = [
    fresh_values(PIECE, 6),
    fresh_values(dataclasses.replace(PIECE, array="params/b"), 5),
    fresh_values(dataclasses.replace(PIECE, block=1), 5),
  ]
  for other in others:
    assert (fresh_values(PIECE, 5) != other).mean() > 0.99
