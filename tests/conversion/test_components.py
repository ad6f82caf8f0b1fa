"""Configurations, arrays and counters of the five networks."""

import pytest

from ddit_jax.conversion.components import (
  array_shapes,
  config_from_record,
  config_to_record,
  counters,
  hub_json,
  pattern_sizes,
  read_config,
)
from ddit_jax.conversion.layouts import open_source
from ddit_jax.encoders.clip import CLIP_SIZES
from ddit_jax.encoders.t5 import T5_SIZES
from ddit_jax.encoders.vae import AutoencoderConfig
from ddit_jax.models.config import SIZES

CONFIGS = {
  "network": SIZES["sd3_medium"],
  "text_encoder": T5_SIZES["small"],
  "vae": AutoencoderConfig(),
  "clip_l": CLIP_SIZES["L"],
  "clip_g": CLIP_SIZES["G"],
}


def test_arrays():
  shapes = array_shapes(SIZES["sd3_medium"])
  assert shapes["constants/position_table"] == (192, 192, 1536)
  assert shapes["params/blocks/text/qkv/kernel"] == (24, 1536, 3, 24, 64)
  assert array_shapes(T5_SIZES["xxl"])["params/blocks/mlp_in/kernel"] == (
    (24, 4096, 2, 10240)
  )
  with pytest.raises(TypeError):
    shapes["new"] = (1,)


def test_counters_and_sizes():
  assert counters(CONFIGS["network"]) == {"n": 24}
  assert counters(CONFIGS["vae"]) == {"i": 4, "j": 3, "m": 2}
  assert pattern_sizes(CONFIGS["network"]) == {"y": 2, "x": 2}
  assert pattern_sizes(CONFIGS["vae"]) == {}


@pytest.mark.parametrize("name", CONFIGS)
def test_records_come_back(name):
  record = config_to_record(CONFIGS[name])
  assert config_from_record(name, record) == CONFIGS[name]
  with pytest.raises(ValueError, match=r"has no \['colour'\]"):
    config_from_record(name, record | {"colour": 1})


def test_each_has_its_own_json():
  classes = {
    name: fields.get("_class_name") or fields["architectures"][0]
    for name, fields in ((n, hub_json(c)) for n, c in CONFIGS.items())
  }
  assert classes == {
    "network": "SD3JointModelFlexible",
    "text_encoder": "T5EncoderModel",
    "vae": "AutoencoderKL",
    "clip_l": "CLIPTextModelWithProjection",
    "clip_g": "CLIPTextModelWithProjection",
  }


@pytest.mark.parametrize("name", CONFIGS)
def test_each_is_read_by_its_own_reader(name, sd3_folder):
  part = open_source(sd3_folder).components[name]
  config = read_config(name, part.naming, part.tensors, part.config)
  assert type(config) is type(CONFIGS[name])
