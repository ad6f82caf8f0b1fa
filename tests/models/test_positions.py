"""The position table by loops, and its centred crop."""

import numpy as np
import pytest

from ddit_jax.models.embeddings import centred_crop, sine_cosine_table
from tests.models import oracles


@pytest.mark.parametrize(
  ("grid", "width", "base_grid"), [(4, 8, 4), (6, 16, 2), (3, 4, 64)]
)
def test_the_table_equals_loops(grid, width, base_grid):
  got = sine_cosine_table(grid, width, base_grid)
  want = oracles.position_table(grid, width, base_grid)
  assert got.dtype == np.float32
  # Measured 3e-8, the rounding to float32.
  np.testing.assert_allclose(got, want, atol=2e-7)


def test_sd3_places_its_192_patches_on_a_64_patch_ruler():
  table = sine_cosine_table(192, 1536, 64)
  # Column 3 lies at position 1, so the fastest pair is sin 1 and cos 1.
  assert table[0, 3, 0] == pytest.approx(np.sin(1.0), abs=1e-7)
  assert table[0, 3, 384] == pytest.approx(np.cos(1.0), abs=1e-7)
  # The row fills the second half.
  assert table[3, 0, 768] == pytest.approx(np.sin(1.0), abs=1e-7)
  assert table[3, 0, 1152] == pytest.approx(np.cos(1.0), abs=1e-7)


@pytest.mark.parametrize(
  ("grid", "rows", "columns", "top", "left"),
  [(4, 4, 4, 0, 0), (5, 2, 3, 1, 1), (6, 1, 6, 2, 0), (192, 32, 16, 80, 88)],
)
def test_the_crop_starts_at_half_the_margin_rounded_down(
  grid, rows, columns, top, left
):
  index = np.arange(grid)
  shape = (grid, grid)
  table = np.stack(
    [np.broadcast_to(index[:, None], shape), np.broadcast_to(index, shape)], -1
  ).astype("f4")
  crop = np.asarray(centred_crop(table, rows, columns))
  want = [[top + r, left + c] for r in range(rows) for c in range(columns)]
  np.testing.assert_array_equal(crop, np.array([want], np.float32))


@pytest.mark.parametrize(("rows", "columns"), [(5, 1), (1, 5)])
def test_an_image_beyond_the_table_is_refused(rows, columns):
  table = sine_cosine_table(4, 8, 4)
  with pytest.raises(ValueError, match=rf"{rows} x {columns} .* only 4 x 4"):
    centred_crop(table, rows, columns)
