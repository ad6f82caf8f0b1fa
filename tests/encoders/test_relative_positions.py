"""T5's relative-position buckets against `transformers` and by hand."""

import numpy as np
import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from ddit_jax.encoders.t5 import relative_buckets


def offsets(length):
  positions = np.arange(length)
  return positions[None, :] - positions[:, None]


@pytest.mark.parametrize(
  "length, num_buckets, max_distance",
  [(1, 32, 128), (700, 32, 128), (300, 8, 20), (300, 64, 200)],
)
def test_buckets_equal_transformers(length, num_buckets, max_distance):
  got = relative_buckets(
    offsets(length), num_buckets=num_buckets, max_distance=max_distance
  )
  positions = torch.arange(length)
  want = T5Attention._relative_position_bucket(
    positions[None, :] - positions[:, None],
    num_buckets=num_buckets,
    max_distance=max_distance,
  )
  np.testing.assert_array_equal(got, want.numpy())


def test_buckets_by_hand():
  buckets = relative_buckets(offsets(400), num_buckets=32, max_distance=128)
  # The first 8 distances have their own; 16, 32 and 64 are powers of two, two
  # buckets apart; from 128 on there is one left.
  distances = [0, 1, 7, 8, 16, 32, 64, 128, 399]
  assert buckets[399, 399 - np.array(distances)].tolist() == [
    *(0, 1, 7, 8, 10, 12, 14, 15, 15)
  ]
  assert buckets[0, distances].tolist() == [
    *(0, 17, 23, 24, 26, 28, 30, 31, 31)
  ]
