"""Sheets of labelled images: sizes, places, and that labels are drawn."""

import numpy as np
import pytest

from ddit_jax.monitor.image_grid import labelled_grid

RED, BLUE = (255, 0, 0), (0, 0, 255)


def tiles(*colours, side=4):
  return np.stack([np.full((side, side, 3), c, np.uint8) for c in colours])


def test_tiles_lie_row_by_row():
  sheet = labelled_grid(tiles(RED, BLUE, RED), ["", "", ""], num_columns=2)
  assert sheet.shape == (2 * (256 + 16 + 16), 2 * 264 + 8, 3)
  assert sheet.dtype == np.uint8
  for row, column, colour in ((0, 0, RED), (0, 1, BLUE), (1, 0, RED)):
    y, x = row * 288 + 8, column * 264 + 8
    np.testing.assert_array_equal(sheet[y, x], colour)
    np.testing.assert_array_equal(sheet[y + 255, x + 255], colour)
  np.testing.assert_array_equal(sheet[288 + 100, 264 + 100], 255)


def test_labels_are_drawn_below_their_tiles():
  plain = labelled_grid(tiles(RED, BLUE), ["", ""])
  sheet = labelled_grid(tiles(RED, BLUE), ["", "a seven"])
  changed = np.argwhere((plain != sheet).any(axis=-1))
  assert len(changed) > 20
  (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
  assert 264 <= top <= bottom < 288 and 272 <= left <= right < 528


def test_a_long_label_is_wrapped_and_cut():
  short = labelled_grid(tiles(RED), ["word"])
  long = labelled_grid(tiles(RED), ["word " * 1000])
  assert long.shape[0] == short.shape[0] + 5 * 16


def test_a_line_break_starts_a_paragraph():
  one = labelled_grid(tiles(RED), ["a seven"])
  two = labelled_grid(tiles(RED), ["a seven\nreference: a two"])
  assert two.shape[0] == one.shape[0] + 16
  np.testing.assert_array_equal(two[: one.shape[0] - 8], one[:-8])


@pytest.mark.parametrize("labels", [["one"], ["one", "two", "three"]])
def test_another_number_of_labels_is_refused(labels):
  with pytest.raises(ValueError, match="2 images and"):
    labelled_grid(tiles(RED, BLUE), labels)
