"""Which weight files of a folder are read, and folders that are unclear."""

import json

import pytest
import safetensors.torch
import torch

from ddit_jax.conversion.component_files import read_component
from ddit_jax.conversion.errors import ConversionError


def write(folder, **files):
  """Files of these names, each with a tensor called like its value."""
  for name, tensor in files.items():
    path = folder / f"{name}.safetensors"
    safetensors.torch.save_file({tensor: torch.ones(2)}, path)


@pytest.fixture
def shards(tmp_path):
  write(tmp_path, shard_1="a", shard_2="b")
  weight_map = {"a": "shard_1.safetensors", "b": "shard_2.safetensors"}
  index = tmp_path / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": weight_map}))
  return tmp_path


def test_one_file_or_shards_with_an_index(tmp_path, shards):
  assert read_component(shards)[0].keys() == {"a", "b"}
  alone = tmp_path / "alone"
  alone.mkdir()
  write(alone, model="a")
  tensors, notes = read_component(alone)
  assert tensors.keys() == {"a"} and notes == []


def test_variants_are_noted_and_not_read(shards):
  write(shards, **{"model.fp16": "c", "model.fp16-00001-of-00002": "d"})
  index = shards / "model.safetensors.index.fp16.json"
  index.write_text("{}")
  tensors, notes = read_component(shards)
  assert tensors.keys() == {"a", "b"}
  assert len(notes) == 2
  assert all("fp16" in n and "was not read" in n for n in notes)


def test_a_lone_variant_is_read(tmp_path):
  write(tmp_path, **{"model.fp16": "a"})
  tensors, notes = read_component(tmp_path)
  assert tensors.keys() == {"a"} and notes == []


def test_two_whole_models_are_ambiguous(tmp_path):
  write(tmp_path, model="a", other="b")
  with pytest.raises(
    ConversionError, match=r"other.safetensors: keep one file"
  ):
    read_component(tmp_path)


def test_shard_that_no_index_lists(shards):
  write(shards, shard_3="c")
  with pytest.raises(ConversionError, match=r"shard_3.* does not list: remove"):
    read_component(shards)


def test_shards_without_index(shards):
  (shards / "model.safetensors.index.json").unlink()
  with pytest.raises(ConversionError, match="with its shards"):
    read_component(shards)


def test_weights_that_are_pickles(tmp_path):
  torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
  with pytest.raises(ConversionError, match=r"is a pickle, .* re-save it once"):
    read_component(tmp_path)


def test_folder_without_weights(tmp_path):
  with pytest.raises(ConversionError, match=r"no .safetensors file: fetch it"):
    read_component(tmp_path)
