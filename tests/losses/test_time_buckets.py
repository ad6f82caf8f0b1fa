"""Losses by diffusion time against counting by hand."""

import jax.numpy as jnp
import numpy as np

from ddit_jax.losses.time_buckets import (
  bucket_means,
  sort_into_buckets,
  without_empty,
)

TIMES = np.array([0.0, 0.19, 0.2, 0.5, 0.99, 1.0], np.float32)
VALUES = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], np.float32)


def test_each_example_falls_into_one_bucket():
  found = sort_into_buckets(jnp.asarray(VALUES), jnp.asarray(TIMES))
  np.testing.assert_array_equal(found.total, [3, 4, 8, 0, 48])
  np.testing.assert_array_equal(found.count, [2, 1, 1, 0, 2])


def test_means_divide_by_what_was_counted_and_say_where_nothing_was():
  counts = jnp.asarray([1, 2, 4, 4, 8, 8])
  found = sort_into_buckets(jnp.asarray(VALUES), jnp.asarray(TIMES), counts)
  means = bucket_means("loss", found)
  assert list(means) == [
    "loss/0.0-0.2",
    "loss/0.2-0.4",
    "loss/0.4-0.6",
    "loss/0.6-0.8",
    "loss/0.8-1.0",
  ]
  np.testing.assert_array_equal(list(means.values()), [1, 1, 2, np.nan, 3])


def test_only_empty_buckets_are_left_out_of_scalars():
  nan = float("nan")
  scalars = {"loss_by_sigma/0.0-0.2": nan, "loss_by_sigma/0.2-0.4": 1.0}
  kept = without_empty(scalars | {"loss/total": nan})
  assert list(kept) == ["loss_by_sigma/0.2-0.4", "loss/total"]
