"""The split keeps whole writing forms apart and loses no image."""

import numpy as np
import pytest
from sklearn import datasets

from ddit_jax.digits import world


def test_splits_are_the_stated_rows_of_the_data_set():
  whole = datasets.load_digits()
  rows = {"train": (0, 1157), "validation": (1157, 1415), "test": (1415, 1797)}
  for split, (start, stop) in rows.items():
    found = world.handwriting(split)
    np.testing.assert_array_equal(found.images, whole.images[start:stop])
    np.testing.assert_array_equal(found.labels, whole.target[start:stop])
    assert found.images.dtype == np.uint8 and found.labels.dtype == np.int64
  assert len(world.handwriting("test").labels) == 382


def test_no_form_is_in_two_splits():
  forms = {s: set(world.handwriting(s).forms.tolist()) for s in world.SPLITS}
  assert forms["train"] == set(range(9))
  assert forms["validation"] == {9, 10}
  assert forms["test"] == {11, 12, 13}


def test_each_form_begins_with_the_dictation_zero_to_nine():
  # Only starts that are exact: 906 and 1545 come from an alignment.
  whole = datasets.load_digits().target
  for start in world.FORM_STARTS:
    if start not in (906, 1545):
      assert whole[start : start + 10].tolist() == list(range(10)), start


def test_rows_show_their_digit():
  found = world.handwriting("validation")
  for digit, rows in enumerate(found.rows):
    assert set(found.labels[rows].tolist()) == {digit}
  assert sum(map(len, found.rows)) == 258


def test_only_the_training_writers_are_training():
  assert world.handwriting("train").is_training
  assert not world.handwriting("validation").is_training
  assert not world.handwriting("test").is_training


def test_shared_arrays_cannot_be_written():
  with pytest.raises(ValueError, match="read-only"):
    world.handwriting("train").images[0] = 0


def test_an_unknown_split_names_the_splits():
  with pytest.raises(ValueError, match=r"'val'.*'validation'"):
    world.handwriting("val")
