"""Reading against safetensors' own writer, and every kind of damage."""

import json
import struct

import numpy as np
import pytest
import safetensors.torch
import torch

from ddit_jax.conversion.errors import ConversionError
from ddit_jax.conversion.safetensors_files import (
  DTYPES,
  read_header,
  read_shards,
)

TORCH_DTYPES = {
  "F32": torch.float32,
  "F16": torch.float16,
  "BF16": torch.bfloat16,
  "F8_E4M3": torch.float8_e4m3fn,
  "F8_E5M2": torch.float8_e5m2,
  "I64": torch.int64,
}


def some_tensors():
  base = torch.arange(-6, 6).reshape(3, 4).float() / 4
  return {name: base.to(dtype) for name, dtype in TORCH_DTYPES.items()}


def test_every_dtype_reads_as_torch_wrote_it(tmp_path):
  path = tmp_path / "x.safetensors"
  tensors = some_tensors() | {"empty": torch.zeros(0, 3), "one": torch.ones(())}
  safetensors.torch.save_file(tensors, path)
  found = read_header(path)
  assert found.keys() == tensors.keys()
  for name in TORCH_DTYPES:
    assert found[name].dtype == name
    got = found[name].read()
    assert got.dtype == DTYPES[name]
    np.testing.assert_array_equal(
      got.astype(np.float64), tensors[name].double().numpy()
    )
  assert found["empty"].read().shape == (0, 3)
  assert found["one"].read() == 1
  assert found["F16"].nbytes == 24


def raw_file(path, header, data=b"", length=None):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  size = len(text) if length is None else length
  path.write_bytes(struct.pack("<Q", size) + text + data)
  return path


def entry(begin, end, shape=(2,), dtype="F32"):
  return {
    "dtype": dtype,
    "shape": list(shape),
    "data_offsets": [begin, end],
  }


DAMAGED = {
  "overlaps": ({"a": entry(0, 8), "b": entry(4, 12)}, 12),
  "leaves a hole": ({"a": entry(0, 8), "b": entry(12, 20)}, 20),
  "is truncated": ({"a": entry(0, 8), "b": entry(8, 16)}, 15),
  "1 bytes follow its last tensor": ({"a": entry(0, 8)}, 9),
  "needs 8 bytes but has 4": ({"a": entry(0, 4)}, 4),
  "dtype 'F4'": ({"a": entry(0, 8, dtype="F4")}, 8),
  "wrongly": ({"a": {"dtype": "F32", "shape": [2]}}, 8),
  "describes tensor 'b'": ({"b": entry(-8, 0)}, 8),
  "names 'a' twice": (
    b'{"a":'
    + json.dumps(entry(0, 8)).encode()
    + b',"a":'
    + json.dumps(entry(0, 8)).encode()
    + b"}",
    8,
  ),
  "no JSON": (b"{not json", 0),
  "no table": (b"[1, 2]", 0),
}


@pytest.mark.parametrize("message", DAMAGED)
def test_damage_is_named(tmp_path, message):
  header, size = DAMAGED[message]
  path = raw_file(tmp_path / "x.safetensors", header, b"\0" * size)
  with pytest.raises(ConversionError, match=message):
    read_header(path)


@pytest.mark.parametrize("length", [2**40, 200])
def test_header_longer_than_the_file(tmp_path, length):
  path = raw_file(tmp_path / "x.safetensors", {}, b"\0" * 50, length)
  with pytest.raises(ConversionError, match="truncated or not a safetensors"):
    read_header(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03"])
def test_file_too_short_for_a_header(tmp_path, content):
  path = tmp_path / "x.safetensors"
  path.write_bytes(content)
  with pytest.raises(ConversionError, match=f"has only {len(content)} bytes"):
    read_header(path)


def test_other_formats_under_this_name(tmp_path):
  path = tmp_path / "x.safetensors"
  torch.save({"a": torch.ones(2)}, path)
  with pytest.raises(ConversionError, match=r"pickle .* re-save it"):
    read_header(path)
  path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
  with pytest.raises(ConversionError, match="git lfs pull"):
    read_header(path)


@pytest.mark.parametrize("length", [0x0280, 0x2020])
def test_header_whose_length_looks_like_another_format(tmp_path, length):
  # Its first bytes are those of a pickle, or spaces before a web page.
  text = json.dumps({"a": entry(0, 8)}).encode().ljust(length)
  path = raw_file(tmp_path / "x.safetensors", text, b"\0" * 8)
  assert read_header(path)["a"].shape == (2,)


def test_every_truncation_is_noticed(tmp_path):
  whole = tmp_path / "whole.safetensors"
  safetensors.torch.save_file(some_tensors(), whole)
  content = whole.read_bytes()
  for length in range(len(content)):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(content[:length])
    with pytest.raises(ConversionError):
      read_header(cut)


@pytest.fixture
def shards(tmp_path):
  """Two shards and their index."""
  files = {
    "a": "m-1.safetensors",
    "b": "m-1.safetensors",
    "c": "m-2.safetensors",
  }
  for file in set(files.values()):
    own = {n: torch.ones(2) for n, f in files.items() if f == file}
    safetensors.torch.save_file(own, tmp_path / file)
  index = tmp_path / "m.safetensors.index.json"

  def write(weight_map):
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index

  write(files)
  return index, files, write


def test_shards(shards):
  index, files, _ = shards
  found = read_shards(index)
  assert {n: t.file.name for n, t in found.items()} == files


def test_shard_is_missing(shards):
  index, _, _ = shards
  (index.parent / "m-2.safetensors").unlink()
  with pytest.raises(ConversionError, match=r"lists m-2.* is missing"):
    read_shards(index)


def test_index_names_a_tensor_that_is_not_there(shards):
  _, files, write = shards
  with pytest.raises(ConversionError, match=r"places d in m-1.*lacks"):
    read_shards(write(files | {"d": "m-1.safetensors"}))


def test_index_puts_a_tensor_into_the_wrong_shard(shards):
  _, files, write = shards
  with pytest.raises(ConversionError, match=r"holds b.*lists elsewhere"):
    read_shards(write(files | {"b": "m-2.safetensors"}))


def test_tensor_that_the_index_does_not_list(shards):
  _, files, write = shards
  del files["b"]
  with pytest.raises(ConversionError, match="does not list"):
    read_shards(write(files))


def test_tensor_in_two_shards(shards):
  index, files, write = shards
  safetensors.torch.save_file(
    {"c": torch.ones(2), "a": torch.ones(2)}, index.parent / "m-2.safetensors"
  )
  with pytest.raises(ConversionError, match=r"holds a.*lists elsewhere"):
    read_shards(write(files))


@pytest.mark.parametrize(
  "content",
  ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'],
)
def test_index_that_is_none(shards, content):
  index, _, _ = shards
  index.write_text(content)
  with pytest.raises(ConversionError, match="index"):
    read_shards(index)


def test_index_with_a_repeated_name(shards):
  index, _, _ = shards
  index.write_text('{"weight_map": {"a": "m-1", "a": "m-2"}}')
  with pytest.raises(ConversionError, match="lists 'a' twice"):
    read_shards(index)


def test_index_may_not_leave_its_folder(shards):
  _, _, write = shards
  with pytest.raises(ConversionError, match="no name of a file beside it"):
    read_shards(write({"a": "../m-1.safetensors"}))
