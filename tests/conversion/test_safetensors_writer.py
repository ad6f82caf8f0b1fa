"""Writing against safetensors' own reader."""

import json
import weakref

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch

from ddit_jax.conversion.safetensors_files import DTYPES, read_shards
from ddit_jax.conversion.safetensors_writer import (
  TensorSpec,
  assign_shards,
  write_folder,
)

ARRAYS = {
  "b16": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16),
  "a32": np.arange(5, dtype=np.float32),
  "transposed": np.arange(6, dtype=np.float16).reshape(2, 3).T,
  "scalar": np.float32(3.5).reshape(()),
  "none": np.zeros((0, 4), np.float16),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def specs():
  return [
    TensorSpec(name=n, dtype=NAMES[a.dtype], shape=a.shape)
    for n, a in ARRAYS.items()
  ]


def read_array(spec):
  return ARRAYS[spec.name]


def check(tensors):
  assert tensors.keys() == ARRAYS.keys()
  for name, array in ARRAYS.items():
    np.testing.assert_array_equal(
      tensors[name].float().numpy(), array.astype(np.float32)
    )


def test_one_file(tmp_path):
  files = assign_shards(specs(), "model")
  assert set(files.values()) == {"model.safetensors"}
  write_folder(tmp_path, specs(), files, stem="model", read=read_array)
  check(safetensors.torch.load_file(tmp_path / "model.safetensors"))
  assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_shards_with_an_index(tmp_path):
  files = assign_shards(specs(), "model", max_bytes=24)
  write_folder(tmp_path, specs(), files, stem="model", read=read_array)
  index = tmp_path / "model.safetensors.index.json"
  assert read_shards(index).keys() == ARRAYS.keys()
  body = json.loads(index.read_text())
  assert body["weight_map"] == files
  assert body["metadata"]["total_size"] == 12 + 20 + 12 + 4
  tensors = {}
  for file in set(files.values()):
    tensors |= safetensors.torch.load_file(tmp_path / file)
  check(tensors)


def test_shards_fill_up_in_order():
  sizes = [4, 4, 4, 100, 1]
  listed = [
    TensorSpec(name=f"t{i}", dtype="U8", shape=(size,))
    for i, size in enumerate(sizes)
  ]
  files = assign_shards(listed, "m", max_bytes=10)
  assert list(files.values()) == [
    "m-00001-of-00004.safetensors",
    "m-00001-of-00004.safetensors",
    "m-00002-of-00004.safetensors",
    "m-00003-of-00004.safetensors",
    "m-00004-of-00004.safetensors",
  ]


def test_numbers_of_another_shape_are_a_bug(tmp_path):
  with pytest.raises(AssertionError, match="was given"):
    write_folder(
      tmp_path,
      specs(),
      assign_shards(specs(), "m"),
      stem="m",
      read=lambda spec: np.zeros((9, 9), np.float32),
    )


def test_few_tensors_are_in_memory(tmp_path):
  alive, most = set(), []

  def read(spec):
    array = np.zeros(spec.shape, np.uint8)
    alive.add(spec.name)
    most.append(len(alive))
    weakref.finalize(array, alive.discard, spec.name)
    return array

  listed = [TensorSpec(name=f"t{i}", dtype="U8", shape=(3,)) for i in range(20)]
  write_folder(
    tmp_path, listed, assign_shards(listed, "m"), stem="m", read=read
  )
  # One is written, one waits, one is being read.
  assert len(most) == 20 and max(most) <= 3


def test_an_error_of_reading_comes_out(tmp_path):
  def read(spec):
    if spec.name == "scalar":
      raise ValueError("no such number")
    return ARRAYS[spec.name]

  files = assign_shards(specs(), "m")
  with pytest.raises(ValueError, match="no such number"):
    write_folder(tmp_path, specs(), files, stem="m", read=read)
