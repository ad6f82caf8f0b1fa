"""One network's way out: what it reads, and how it shares out its files."""

import numpy as np
import pytest
import safetensors.torch

from ddit_jax.conversion.checkpoint_record import read_record
from ddit_jax.conversion.component_export import (
  open_component,
  verify_component,
  write_component,
)
from ddit_jax.conversion.dtypes import CastCounter
from ddit_jax.conversion.errors import ConversionError
from ddit_jax.conversion.safetensors_files import read_header


@pytest.fixture
def part(converted):
  return open_part(converted, None)


def open_part(converted, dtype):
  folder = converted / "c"
  return open_component(
    {"params": folder / "text_encoder/params"},
    "text_encoder",
    read_record(folder).configs["text_encoder"],
    naming="t5",
    dtype=dtype,
  )


def write(part, folder, files=None):
  told = []
  write_component(
    part, folder, files, counter=CastCounter(), progress=told.append
  )
  assert sum(told) == part.nbytes()


def test_reads_blocks(part):
  slab = part.read("params/blocks/qkv/kernel", 1)
  assert slab.shape == (32, 3, 3, 4)
  assert part.read("params/token_embedding", None).shape == (16, 32)


def test_specs_are_sorted_and_complete(part):
  names = [spec.name for spec in part.specs()]
  assert names == sorted(names) and len(names) == 21
  assert {spec.dtype for spec in part.specs()} == {"F32"}
  assert part.commonest_dtype() == np.float32
  assert part.largest_array() == 4 * 2 * 32 * 2 * 40


def test_dtype_changes_sizes(part, converted):
  half = open_part(converted, "float16")
  assert 2 * half.nbytes() == part.nbytes()
  assert half.commonest_dtype() == np.float16


def test_files_of_the_source_are_used_again(tmp_path, part):
  names = sorted(part.pieces)
  files = {
    name: f"model-{i % 3 + 1:05d}-of-00003.safetensors"
    for i, name in enumerate(names)
  }
  write(part, tmp_path / "x", files)
  assert len(list((tmp_path / "x").glob("*.safetensors"))) == 3
  stored = safetensors.torch.load_file(
    tmp_path / "x/model-00001-of-00003.safetensors"
  )
  assert set(stored) == set(names[::3])


@pytest.mark.parametrize(
  "files", [None, {}, "model.fp16.safetensors", "weights.safetensors"]
)
def test_unusual_files_are_not(tmp_path, part, files):
  if isinstance(files, str):
    files = dict.fromkeys(part.pieces, files)
  write(part, tmp_path / "x", files)
  assert [p.name for p in (tmp_path / "x").iterdir()] == ["model.safetensors"]


def test_verification(tmp_path, part):
  write(part, tmp_path / "x")
  tensors = read_header(tmp_path / "x/model.safetensors")
  verify_component(part, tensors)
  swapped = "encoder.block.0.layer.0.SelfAttention."
  tensors[swapped + "q.weight"] = tensors[swapped + "k.weight"]
  with pytest.raises(ConversionError, match=r"k.weight differs"):
    verify_component(part, tensors)


def test_arrays_of_another_network(converted):
  folder = converted / "c"
  with pytest.raises(ConversionError, match="missing or unexpected"):
    open_component(
      {"params": folder / "vae/params"},
      "text_encoder",
      read_record(folder).configs["text_encoder"],
      naming="t5",
      dtype=None,
    )
