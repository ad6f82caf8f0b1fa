"""The small files beside exported weights."""

import json

import pytest

from ddit_jax.conversion.hub import config_json, hub_json, write_plain_files
from ddit_jax.encoders.t5 import T5_SIZES
from ddit_jax.models.config import SIZES

T5 = T5_SIZES["small"]


def test_fields_of_the_source_are_kept():
  stored = hub_json(T5) | {"dropout_rate": 0.1, "torch_dtype": "float16"}
  got = config_json(T5, stored, "x")
  assert got == stored | {"torch_dtype": "x"}


@pytest.mark.parametrize("stored", [{}, {"architectures": ["Other"], "a": 1}])
def test_fields_of_another_class_are_not(stored):
  got = config_json(T5, stored, "bfloat16")
  assert got == hub_json(T5) | {"torch_dtype": "bfloat16"}


def test_networks_say_no_dtype():
  config = SIZES["sd3_medium"]
  assert config_json(config, {}, "x") == hub_json(config)


def test_plain_files(tmp_path):
  checkpoint, folder = tmp_path / "in", tmp_path / "out"
  (checkpoint / "tokenizer").mkdir(parents=True)
  (checkpoint / "tokenizer/tokenizer.json").write_text("{}")
  (folder / "transformer").mkdir(parents=True)
  write_plain_files(checkpoint, folder, "sd3_folder")
  assert (folder / "tokenizer_3/tokenizer.json").read_text() == "{}"
  index = json.loads((folder / "model_index.json").read_text())
  assert index["tokenizer_3"] == ["transformers", "T5TokenizerFast"]
  assert index["transformer"] == ["diffusers", "SD3Transformer2DModel"]
  assert index["vae"] == [None, None]
  scheduler = json.loads(
    (folder / "scheduler/scheduler_config.json").read_text()
  )
  # SD3's published schedule.
  assert (scheduler["shift"], scheduler["num_train_timesteps"]) == (3.0, 1000)


def test_scheduler_of_the_source_is_kept(tmp_path):
  checkpoint, folder = tmp_path / "in", tmp_path / "out"
  (checkpoint / "scheduler").mkdir(parents=True)
  (checkpoint / "scheduler/scheduler_config.json").write_text('{"shift": 1}')
  folder.mkdir()
  write_plain_files(checkpoint, folder, "ddit_folder")
  stored = (folder / "scheduler/scheduler_config.json").read_text()
  assert json.loads(stored) == {"shift": 1}
