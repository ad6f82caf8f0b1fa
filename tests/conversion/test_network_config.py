"""The MM-DiT's configuration from `config.json`, from shapes, and back."""

import dataclasses
import json

import diffusers
import numpy as np
import pytest

from ddit_jax.conversion.config_fields import JsonConfig
from ddit_jax.conversion.errors import ConversionError
from ddit_jax.conversion.layouts import open_source
from ddit_jax.conversion.network_config import (
  base_grid_of,
  ddit_config,
  network_config,
  network_json,
)
from ddit_jax.models.config import SIZES, MMDiTConfig
from ddit_jax.models.embeddings import sine_cosine_table
from tests.conversion import checkpoints

TINY = MMDiTConfig(
  depth=checkpoints.DEPTH,
  width=checkpoints.WIDTH,
  num_heads=2,
  max_grid=6,
  base_grid=4,
  context_dim=32,
  vocab_size=0,
  pooled_dim=192,
  num_null_image_tokens=0,
  is_last_text_block_full=False,
)


def config_of(path):
  part = open_source(path).components["network"]
  return network_config(part.naming, part.tensors, part.config)


def test_folder_and_single_file_agree(sd3_folder, single_file):
  assert config_of(sd3_folder) == config_of(single_file) == TINY


def test_ddit_folder(ddit_folder):
  expected = ddit_config(TINY, checkpoints.VOCABULARY)
  assert config_of(ddit_folder) == expected
  assert expected.vocab_size == checkpoints.VOCABULARY
  assert expected.pooled_dim == 0
  assert expected.is_last_text_block_full


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
  ("grid", "base"), [(192, 64), (12, 4), (24, 8), (6, 6), (5, 1)]
)
def test_base_grid_is_read_off_the_table(grid, base, dtype):
  width = 32 if grid < 100 else 8
  table = sine_cosine_table(grid, width, base).astype(dtype)
  noise = np.random.default_rng(0).normal(size=table.shape) * 1e-3
  assert base_grid_of(table) == base
  assert base_grid_of(table + noise) == base


@pytest.mark.parametrize("name", ["sd3_medium", "sd3_medium_base"])
def test_json_of_the_published_sizes(name):
  fields = network_json(SIZES[name])
  assert fields["sample_size"] == 128
  assert fields["pos_embed_max_size"] == 192
  assert fields["pooled_projection_dim"] == 2048
  assert ("vocab_size" in fields) == (name == "sd3_medium")


def test_json_builds_the_same_network_in_diffusers(sd3_folder):
  model = diffusers.SD3Transformer2DModel.from_config(network_json(TINY))
  shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
  source = open_source(sd3_folder).components["network"].tensors
  assert shapes == {k: t.shape for k, t in source.items()}
  # Nothing was left to a default that could be another.
  saved = json.loads((sd3_folder / "transformer/config.json").read_text())
  assert {k: v for k, v in model.config.items() if k[0] != "_"} == {
    k: v for k, v in saved.items() if k[0] != "_"
  }


@pytest.mark.parametrize(
  "changes",
  [{"mlp_ratio": 3}, {"has_qk_norm": True}, {"context_dim": None}],
)
def test_networks_without_a_layout(changes):
  config = dataclasses.replace(TINY, max_text_length=4, **changes)
  with pytest.raises(ConversionError, match=f"{next(iter(changes))} = "):
    network_json(config)


def with_fields(sd3_folder, **changes):
  part = open_source(sd3_folder).components["network"]
  fields = {**part.config.fields, **changes}
  return network_config(
    part.naming, part.tensors, JsonConfig(part.config.path, fields)
  )


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"qk_norm": "rms_norm"}, r"SD3\.5"),
    ({"dual_attention_layers": [0]}, r"SD3\.5"),
    ({"num_layers": None}, "lacks the field 'num_layers'"),
    ({"num_layers": "3"}, r"num_layers = '3', which is no int"),
    ({"caption_projection_dim": 64}, "caption_projection_dim = 64"),
    ({"out_channels": 8}, "out_channels = 8"),
  ],
)
def test_bad_fields(sd3_folder, changes, message):
  with pytest.raises(ConversionError, match=message):
    with_fields(sd3_folder, **changes)


def test_head_and_config_must_agree(ddit_folder):
  part = open_source(ddit_folder).components["network"]
  fields = {**part.config.fields, "vocab_size": 10}
  config = JsonConfig(part.config.path, fields)
  with pytest.raises(ConversionError, match="vocab_size = 10"):
    network_config(part.naming, part.tensors, config)


def test_single_file_needs_heads_of_64(single_file):
  part = open_source(single_file).components["network"]
  name = "x_embedder.proj.weight"
  narrow = dataclasses.replace(part.tensors[name], shape=(96, 16, 2, 2))
  with pytest.raises(ConversionError, match="width 96 is not a multiple"):
    network_config(part.naming, {**part.tensors, name: narrow}, None)
  table = dataclasses.replace(part.tensors["pos_embed"], shape=(1, 35, 96))
  with pytest.raises(ConversionError, match="35 rows, not a square"):
    network_config(part.naming, {**part.tensors, "pos_embed": table}, None)
  some = {k: v for k, v in part.tensors.items() if "joint_blocks.1." not in k}
  with pytest.raises(ConversionError, match="numbered"):
    network_config(part.naming, some, None)
  del some["x_embedder.proj.weight"]
  with pytest.raises(ConversionError, match="lacks tensor x_embedder"):
    network_config(part.naming, some, None)
