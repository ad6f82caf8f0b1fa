"""A folder of arrays as Orbax stores a tree, written and read block by block.

Orbax takes whole arrays only. Its files are plain zarr arrays and a `_METADATA`
file, so TensorStore can write one block after another, and
`orbax.checkpoint.PyTreeCheckpointer` restores the folder onto any mesh. Arrays
are not compressed: weights do not shrink.
"""

import json
import math
import pathlib
from collections.abc import Mapping

import numpy as np
import tensorstore as ts

from ddit_jax.errors import InputError
from ddit_jax.files import local_path
from ddit_jax.json_files import read_json_object

_METADATA_NAME = "_METADATA"
_MAX_METADATA_BYTES = 2**26
# The smallest unit that a restoring process reads.
_MAX_CHUNK_BYTES = 2**26
# Zeros are stored explicitly, so that a missing file is an error.
_STRICT = {
  "store_data_equal_to_fill_value": True,
  "fill_missing_data_reads": False,
}
# Orbax's code for "this key is a dictionary's".
_DICT_KEY = 2


class ZarrArrays:
  """Arrays named by paths like "blocks/image/qkv/kernel"."""

  def __init__(self, folder: pathlib.Path):
    """Opens a folder that Orbax or `create_arrays` wrote.

    Raises:
      InputError: it is not such a folder.
    """
    self._folder = folder
    try:
      metadata = read_json_object(
        folder / _METADATA_NAME, max_bytes=_MAX_METADATA_BYTES
      )
      self.paths = [
        "/".join(str(key["key"]) for key in entry["key_metadata"])
        for entry in metadata["tree_metadata"].values()
      ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
      raise InputError(
        f"{folder} is not a folder of arrays written by Orbax (it has no "
        f"readable {_METADATA_NAME}): give one, e.g. RUN/checkpoints/STEP/ema"
      ) from error
    self._is_zarr3 = bool(metadata.get("use_zarr3"))
    self._arrays: dict[str, ts.TensorStore] = {}

  def block(self, path: str, number: int | None) -> ts.TensorStore:
    """An entry of an array's first axis, or all of it if `number` is None."""
    array = self.array(path)
    return array if number is None else array[number]

  def array(self, path: str) -> ts.TensorStore:
    """An array, to be read with `.read()` and written with `.write()`.

    Raises:
      InputError: its files are missing or damaged.
    """
    if path not in self._arrays:
      spec = _spec(self._folder, path, is_zarr3=self._is_zarr3) | _STRICT
      try:
        opened = ts.open(spec, open=True, context=_context())
        self._arrays[path] = opened.result()
      except ValueError as error:
        raise InputError(
          f"array {path} of {self._folder} cannot be read: {error}"
        ) from error
    return self._arrays[path]


def create_arrays(
  folder: pathlib.Path,
  arrays: Mapping[str, tuple[tuple[int, ...], np.dtype, bool]],
) -> ZarrArrays:
  """Creates a folder of arrays, to be written block by block.

  Args:
    folder: does not exist yet.
    arrays: path -> shape, dtype, and whether the first axis counts blocks, each
      of which then has its own files.
  """
  folder.mkdir(parents=True)
  tree = {}
  for path, (shape, dtype, has_blocks) in arrays.items():
    chunk = _chunk(shape, dtype.itemsize, has_blocks)
    grid = {"name": "regular", "configuration": {"chunk_shape": chunk}}
    spec = _spec(folder, path, is_zarr3=True) | {
      "metadata": {
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": grid,
      }
    }
    ts.open(spec, create=True, context=_context()).result()
    keys = path.split("/")
    tree[str(tuple(keys))] = {
      "key_metadata": [{"key": k, "key_type": _DICT_KEY} for k in keys],
      "value_metadata": {
        # Restores without a target too; a sharded target gives jax.Array.
        "value_type": "np.ndarray",
        "skip_deserialize": False,
        "write_shape": list(shape),
      },
    }
  metadata = {
    "tree_metadata": tree,
    "use_ocdbt": False,
    "use_zarr3": True,
    "store_array_data_equal_to_fill_value": True,
    "custom_metadata": None,
  }
  (folder / _METADATA_NAME).write_text(json.dumps(metadata))
  return ZarrArrays(folder)


def _context() -> ts.Context:
  # Every byte is used once, so no cache. The caller syncs all files at once.
  return ts.Context(
    {"cache_pool": {"total_bytes_limit": 0}, "file_io_sync": False}
  )


def _spec(folder: pathlib.Path, path: str, *, is_zarr3: bool):
  name, base = path.replace("/", "."), str(local_path(folder))
  store = {"driver": "file", "path": f"{base}/{name}/"}
  if (folder / "manifest.ocdbt").is_file():
    store = {"driver": "ocdbt", "base": f"file://{base}/", "path": f"{name}/"}
  return {"driver": "zarr3" if is_zarr3 else "zarr", "kvstore": store}


def _chunk(
  shape: tuple[int, ...], itemsize: int, has_blocks: bool
) -> list[int]:
  """A chunk's shape: one block, halved along its first axis while too large."""
  chunk = list(shape)
  axis = 0
  if has_blocks:
    chunk[0], axis = 1, 1
  while math.prod(chunk) * itemsize > _MAX_CHUNK_BYTES and chunk[axis] > 1:
    chunk[axis] = -(-chunk[axis] // 2)
  return chunk
