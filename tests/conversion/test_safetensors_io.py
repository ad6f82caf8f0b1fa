"""Reading and writing against the library, and every kind of damage."""

import collections
import json
import os
import pathlib
import random
import struct
import weakref

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from ddit_jax.conversion.safetensors_io import (
  DTYPE_NAMES,
  STORED_DTYPES,
  StoredTensor,
  assign_shards,
  read_folder,
  read_header,
  refuse_pickle,
  write_folder,
)
from ddit_jax.errors import InputError, one_line
from tests.damage import damaged_bytes, damaged_json

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
    assert got.dtype == STORED_DTYPES[name]
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
  "offset for tensor `b`": ({"a": entry(0, 8), "b": entry(4, 12)}, 12),
  "offset for tensor `c`": ({"a": entry(0, 8), "c": entry(12, 20)}, 20),
  "file not fully covered": ({"a": entry(0, 8), "b": entry(8, 16)}, 15),
  "not fully covered": ({"a": entry(0, 8)}, 9),
  "invalid shape": ({"a": entry(0, 4)}, 4),
  "dtype 'F8_E8M0', which cannot be read": (
    {"a": entry(0, 2, dtype="F8_E8M0")},
    2,
  ),
  "missing field `data_offsets`": ({"a": {"dtype": "F32", "shape": [2]}}, 8),
  "invalid value: integer `-8`": ({"b": entry(-8, 0)}, 8),
  "names 'a' twice": (
    b'{"a":'
    + json.dumps(entry(0, 8)).encode()
    + b',"a":'
    + json.dumps(entry(0, 8)).encode()
    + b"}",
    8,
  ),
  "invalid JSON": (b"{not json", 0),
  r"has dtype \{'F32': None\}, which cannot": (
    {"a": entry(0, 8, dtype={"F32": None})},
    8,
  ),
  r"x.safetensors .* is damaged": ({"a": entry(0, 8, dtype=["F32"])}, 8),
  r"is damaged, truncated": ({"a": {**entry(0, 8), "x": [[]] * 2}}, 9),
  "recursion limit": (b'{"a":' + b"[" * 9999 + b"]" * 9999 + b"}", 0),
  "number out of range": (b'{"a":' + b"9" * 5000 + b"}", 0),
  "hex escape": (b'{"\\ud800": ' + json.dumps(entry(0, 8)).encode() + b"}", 8),
  r"tensor '\\x1b\[2J' has control": ({"\x1b[2J": entry(0, 8)}, 8),
  "expected struct": (b"[1, 2]", 0),
}


@pytest.mark.parametrize("message", DAMAGED)
def test_damage_is_named(tmp_path, message):
  header, size = DAMAGED[message]
  path = raw_file(tmp_path / "x.safetensors", header, b"\0" * size)
  with pytest.raises(InputError, match=message):
    read_header(path)


@pytest.mark.parametrize("length", [2**40, 200])
def test_header_longer_than_the_file(tmp_path, length):
  path = raw_file(tmp_path / "x.safetensors", {}, b"\0" * 50, length)
  with pytest.raises(InputError, match="header"):
    read_header(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03"])
def test_file_too_short_for_a_header(tmp_path, content):
  path = tmp_path / "x.safetensors"
  path.write_bytes(content)
  with pytest.raises(InputError, match=rf"\({len(content)} bytes\) is damaged"):
    read_header(path)


@pytest.mark.parametrize(
  ("beginning", "what"),
  [
    (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    (b"\n<!DOCTYPE html><html>", "web page"),
    (b"<HTML><head>", "web page"),
    (b"PK\x03\x04\x00\x00", "re-save it"),
    (b"\x80\x02}q\x00", "re-save it"),
    (b"GGUF\x03\x00\x00\x00", "GGUF"),
  ],
)
def test_other_formats_under_this_name(tmp_path, beginning, what):
  path = tmp_path / "x.safetensors"
  path.write_bytes(beginning + b"\xff" * 40)
  with pytest.raises(
    InputError, match=f"is not a safetensors file but .*{what}"
  ):
    read_header(path)


def test_other_names_are_not_read(tmp_path):
  with pytest.raises(InputError, match=r"re-save it .*weights_only=True"):
    refuse_pickle(tmp_path / "x.ckpt")
  with pytest.raises(InputError, match="nothing else is read"):
    refuse_pickle(tmp_path / "x.onnx")


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
    with pytest.raises(InputError):
      read_header(cut)


@pytest.fixture
def shards(tmp_path):
  """Two shards and their index; the function writes another index."""
  files = dict.fromkeys("ab", "m-1.safetensors") | {"c": "m-2.safetensors"}
  for file in set(files.values()):
    own = {n: torch.ones(2) for n, f in files.items() if f == file}
    safetensors.torch.save_file(own, tmp_path / file)
  index = tmp_path / "m.safetensors.index.json"

  def write(weight_map):
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

  write(files)
  return tmp_path, files, write


def test_shards(shards):
  folder, files, _ = shards
  tensors, notes = read_folder(folder)
  assert {n: t.file.name for n, t in tensors.items()} == files
  assert notes == []


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"d": "m-1.safetensors"}, r"places d in m-1.*lacks"),
    ({"b": "m-2.safetensors"}, r"holds b.*lists elsewhere"),
    ({"b": None}, "does not list"),
    ({"c": "m-3.safetensors"}, "'m-3.safetensors', which is missing"),
    ({"c": "../m-1.safetensors"}, "not a file beside it"),
    ({"c": 1}, "malformed weight_map"),
    (dict.fromkeys("abc"), "empty or malformed weight_map"),
  ],
)
def test_an_index_must_list_its_files(shards, change, message):
  folder, files, write = shards
  write({n: f for n, f in (files | change).items() if f is not None})
  with pytest.raises(InputError, match=message):
    read_folder(folder)


def test_a_tensor_in_two_shards(shards):
  folder, _, _ = shards
  twice = {"c": torch.ones(2), "a": torch.ones(2)}
  safetensors.torch.save_file(twice, folder / "m-2.safetensors")
  with pytest.raises(InputError, match=r"holds a.*lists elsewhere"):
    read_folder(folder)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("{", "not a shard index"),
    ("[]", "not a shard index"),
    ("{}", "not a shard index"),
    ('{"weight_map": {"a": "m-1", "a": "m-2"}}', "names 'a' twice"),
    ("[" * 100_000, "nests too deeply"),
    ('{"weight_map": ' + "9" * 5000 + "}", "not a shard index"),
    ('{"weight_map": [[1, 2, 3]]}', "not a shard index"),
    ('{"weight_map": [[{}, 2]]}', "not a shard index"),
  ],
)
def test_not_an_index(shards, content, message):
  folder, _, _ = shards
  (folder / "m.safetensors.index.json").write_text(content)
  with pytest.raises(InputError, match=message):
    read_folder(folder)


def save(folder, **files):
  """Files of these names, each with a tensor named like its value."""
  for name, tensor in files.items():
    path = folder / f"{name}.safetensors"
    safetensors.torch.save_file({tensor: torch.ones(2)}, path)


def test_variants_are_noted_and_not_read(shards):
  folder, files, _ = shards
  save(folder, **{"model.fp16": "c", "model.fp16-00001-of-00002": "d"})
  (folder / "model.safetensors.index.fp16.json").write_text("{}")
  tensors, notes = read_folder(folder)
  assert tensors.keys() == files.keys()
  assert len(notes) == 2
  assert all("fp16" in n and "was not read" in n for n in notes)


def test_a_lone_variant_is_read(tmp_path):
  save(tmp_path, **{"model.fp16": "a"})
  tensors, notes = read_folder(tmp_path)
  assert tensors.keys() == {"a"} and notes == []


def test_folders_that_are_unclear(tmp_path, shards):
  folder, _, _ = shards
  save(folder, stray="c")
  with pytest.raises(InputError, match=r"stray.* does not list: remove"):
    read_folder(folder)
  (folder / "m.safetensors.index.json").unlink()
  with pytest.raises(InputError, match=r"stray.*: keep one .* with its shards"):
    read_folder(folder)
  empty = tmp_path / "empty"
  empty.mkdir()
  with pytest.raises(InputError, match=r"no .safetensors file: fetch it"):
    read_folder(empty)
  torch.save({"a": torch.ones(2)}, empty / "pytorch_model.bin")
  with pytest.raises(InputError, match=r"is a pickle, .* re-save it once"):
    read_folder(empty)


ARRAYS = {
  "b16": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16),
  "a32": np.arange(5, dtype=np.float32),
  "transposed": np.arange(6, dtype=np.float16).reshape(2, 3).T,
  "scalar": np.float32(3.5).reshape(()),
  "none": np.zeros((0, 4), np.float16),
}


def written(folder, max_bytes, read=lambda tensor: ARRAYS[tensor.name]):
  """Writes `ARRAYS`; returns the name of each one's file."""
  sizes = {name: array.nbytes for name, array in ARRAYS.items()}
  files = assign_shards(sizes, "model", max_bytes=max_bytes)
  tensors = [
    StoredTensor(
      name=name,
      file=pathlib.Path(files[name]),
      dtype=DTYPE_NAMES[array.dtype],
      shape=array.shape,
    )
    for name, array in ARRAYS.items()
  ]
  write_folder(folder, tensors, read)
  return files


@pytest.mark.parametrize("max_bytes", [1000, 24])
def test_the_library_reads_what_was_written(tmp_path, max_bytes):
  files = written(tmp_path, max_bytes)
  index = tmp_path / "model.safetensors.index.json"
  assert index.is_file() == (len(set(files.values())) > 1) == (max_bytes == 24)
  tensors = {}
  for file in set(files.values()):
    tensors |= safetensors.torch.load_file(tmp_path / file)
  assert tensors.keys() == ARRAYS.keys()
  for name, array in ARRAYS.items():
    got = tensors[name].float().numpy()
    np.testing.assert_array_equal(got, array.astype(np.float32))
  assert read_folder(tmp_path)[0].keys() == ARRAYS.keys()
  if index.is_file():
    body = json.loads(index.read_text())
    assert body["weight_map"] == files
    assert body["metadata"]["total_size"] == 12 + 20 + 12 + 4


def test_shards_fill_up_in_order():
  sizes = {f"t{i}": size for i, size in enumerate([4, 4, 4, 100, 1])}
  files = assign_shards(sizes, "m", max_bytes=10)
  numbers = [file.split("-")[1] for file in files.values()]
  assert numbers == ["00001", "00001", "00002", "00003", "00004"]
  assert files["t0"] == "m-00001-of-00004.safetensors"


def test_bugs_and_errors_of_reading_come_out(tmp_path):
  with pytest.raises(AssertionError):
    written(tmp_path, 1000, lambda tensor: np.zeros((9, 9), np.float32))

  def read(tensor):
    if tensor.name == "scalar":
      raise ValueError("no such number")
    return ARRAYS[tensor.name]

  with pytest.raises(ValueError, match="no such number"):
    written(tmp_path, 1000, read)


def test_few_tensors_are_in_memory(tmp_path):
  alive, most = set(), []

  def read(tensor):
    array = np.zeros(tensor.shape, np.uint8)
    alive.add(tensor.name)
    most.append(len(alive))
    weakref.finalize(array, alive.discard, tensor.name)
    return array

  tensors = [
    StoredTensor(name=f"t{i}", file=tmp_path / "m", dtype="U8", shape=(3,))
    for i in range(20)
  ]
  write_folder(tmp_path, tensors, read)
  # One is written, one waits, one is being read.
  assert len(most) == 20 and max(most) <= 3


def test_only_regular_files_are_read(tmp_path):
  for name in ("x.safetensors", "m.safetensors.index.json"):
    os.mkfifo(tmp_path / name)
  with pytest.raises(InputError, match="is not a regular file"):
    read_header(tmp_path / "x.safetensors")
  with pytest.raises(InputError, match="is not a regular file"):
    read_folder(tmp_path)


@pytest.mark.slow
def test_damaged_headers_are_read_or_refused_by_a_line(tmp_path):
  rng, counts = random.Random(2), collections.Counter()
  path = tmp_path / "x.safetensors"
  safetensors.torch.save_file(some_tensors(), path, metadata={"format": "pt"})
  whole = path.read_bytes()
  (length,) = struct.unpack("<Q", whole[:8])
  text, data = whole[8 : 8 + length].decode(), whole[8 + length :]
  for number in range(3000):
    if number % 2:
      raw_file(path, damaged_json(text, rng), data)
    else:
      path.write_bytes(damaged_bytes(whole[: 8 + length], rng) + data)
    try:
      for tensor in read_header(path).values():
        assert tensor.read().shape == tensor.shape
      counts["read"] += 1
    except InputError as error:
      assert "\n" not in one_line(error)
      counts["refused"] += 1
  assert counts.total() == 3000 and min(counts.values()) > 20


@pytest.mark.slow
def test_damaged_indices_are_read_or_refused_by_a_line(shards):
  folder, _, _ = shards
  rng, counts = random.Random(3), collections.Counter()
  index = folder / "m.safetensors.index.json"
  text = index.read_text()
  for number in range(1500):
    damage = damaged_json(text, rng)
    if number % 2:
      damage = damaged_bytes(text.encode(), rng)
    index.write_bytes(damage)
    try:
      read_folder(folder)
      counts["read"] += 1
    except InputError as error:
      assert "\n" not in one_line(error)
      counts["refused"] += 1
  assert counts.total() == 1500 and min(counts.values()) > 50
