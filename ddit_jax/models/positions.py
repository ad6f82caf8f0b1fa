"""SD3's fixed 2-D sine-cosine position table, and its centred crop."""

import numpy as np
from jaxtyping import Array, Float


def sine_cosine_table(
  grid: int, width: int, base_grid: int
) -> Float[np.ndarray, "grid grid width"]:
  """The table a freshly built SD3 stores.

  The first half of the features encodes the column, the second the row; each
  half is sines, then cosines.

  Args:
    grid: side of the table in patches.
    width: features, a multiple of four.
    base_grid: positions are `index * base_grid / grid`.

  Returns:
    float32 array indexed (row, column, feature).
  """
  positions = np.arange(grid, dtype=np.float64) * (base_grid / grid)
  frequencies = 1 / 10000 ** (np.arange(width // 4) / (width // 4))
  angles = positions[:, None] * frequencies
  one_axis = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
  shape = (grid, grid, width // 2)
  column = np.broadcast_to(one_axis[None, :], shape)
  row = np.broadcast_to(one_axis[:, None], shape)
  return np.concatenate([column, row], axis=-1).astype(np.float32)


def centred_crop(
  table: Float[Array, "grid grid width"], rows: int, columns: int
) -> Float[Array, "1 tokens width"]:
  """The middle `rows` x `columns` of the table, flattened row by row.

  Raises:
    ValueError: the image needs more patches than the table has.
  """
  grid = table.shape[0]
  if rows > grid or columns > grid:
    raise ValueError(
      f"the image has {rows} x {columns} patches but the position table only "
      f"{grid} x {grid}: use a smaller image or a larger max_grid"
    )
  top, left = (grid - rows) // 2, (grid - columns) // 2
  crop = table[top : top + rows, left : left + columns]
  return crop.reshape(1, rows * columns, table.shape[-1])
