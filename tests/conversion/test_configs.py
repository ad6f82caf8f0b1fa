"""Configurations from `config.json`, from shapes, and back."""

import collections
import dataclasses
import json
import random

import diffusers
import numpy as np
import pytest
import transformers

from ddit_jax.conversion.configs import (
  array_shapes,
  base_grid_of,
  ddit_config,
  read_config,
)
from ddit_jax.conversion.formats import open_checkpoint
from ddit_jax.conversion.hub import hub_json
from ddit_jax.conversion.json_config import JsonConfig
from ddit_jax.encoders.clip import CLIP_SIZES
from ddit_jax.encoders.t5 import T5_SIZES, T5Config
from ddit_jax.encoders.vae import AutoencoderConfig
from ddit_jax.errors import InputError, one_line
from ddit_jax.models.config import SIZES, MMDiTConfig
from ddit_jax.models.embeddings import sine_cosine_table
from tests.conversion import checkpoints
from tests.damage import damaged_bytes, damaged_json

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
  part = open_checkpoint(path).networks["network"]
  return read_config("network", part.scheme, part.tensors, part.config)


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
  fields = hub_json(SIZES[name])
  assert fields["sample_size"] == 128
  assert fields["pos_embed_max_size"] == 192
  assert fields["pooled_projection_dim"] == 2048
  assert ("vocab_size" in fields) == (name == "sd3_medium")


def test_json_builds_the_same_network_in_diffusers(sd3_folder):
  model = diffusers.SD3Transformer2DModel.from_config(hub_json(TINY))
  shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
  source = open_checkpoint(sd3_folder).networks["network"].tensors
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
def test_networks_without_a_format(changes):
  config = dataclasses.replace(TINY, max_text_length=4, **changes)
  with pytest.raises(InputError, match=f"{next(iter(changes))} = "):
    hub_json(config)


def with_fields(sd3_folder, **changes):
  part = open_checkpoint(sd3_folder).networks["network"]
  fields = {**part.config.fields, **changes}
  config = JsonConfig(part.config.path, fields)
  return read_config("network", part.scheme, part.tensors, config)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"qk_norm": "rms_norm"}, r"SD3\.5"),
    ({"dual_attention_layers": [0]}, r"SD3\.5"),
    ({"num_layers": None}, "lacks the field 'num_layers'"),
    ({"num_layers": "3"}, r"num_layers = '3', which is not of type int"),
    ({"caption_projection_dim": 64}, "caption_projection_dim = 64"),
    ({"out_channels": 8}, "out_channels = 8"),
  ],
)
def test_bad_fields(sd3_folder, changes, message):
  with pytest.raises(InputError, match=message):
    with_fields(sd3_folder, **changes)


def test_head_and_config_must_agree(ddit_folder):
  part = open_checkpoint(ddit_folder).networks["network"]
  fields = {**part.config.fields, "vocab_size": 10}
  config = JsonConfig(part.config.path, fields)
  with pytest.raises(InputError, match="vocab_size = 10"):
    read_config("network", part.scheme, part.tensors, config)


def test_single_file_needs_heads_of_64(single_file):
  part = open_checkpoint(single_file).networks["network"]

  def read(tensors):
    return read_config("network", part.scheme, tensors, None)

  name = "x_embedder.proj.weight"
  narrow = dataclasses.replace(part.tensors[name], shape=(96, 16, 2, 2))
  with pytest.raises(InputError, match="width 96 is not a multiple"):
    read({**part.tensors, name: narrow})
  table = dataclasses.replace(part.tensors["pos_embed"], shape=(1, 35, 96))
  with pytest.raises(InputError, match="35 rows, not a square"):
    read({**part.tensors, "pos_embed": table})
  flat = dataclasses.replace(table, shape=(35, 96))
  with pytest.raises(InputError, match=r"\[35, 96\], not the 3 dimensions"):
    read({**part.tensors, "pos_embed": flat})
  some = {k: v for k, v in part.tensors.items() if "joint_blocks.1." not in k}
  with pytest.raises(InputError, match="numbered"):
    read(some)
  del some["x_embedder.proj.weight"]
  with pytest.raises(InputError, match="lacks tensor x_embedder"):
    read(some)


T5 = T5Config(
  depth=2, width=32, num_heads=3, head_dim=4, mlp_width=40, vocab_size=16
)
VAE = AutoencoderConfig(block_widths=(32, 64, 64), layers_per_block=1)
CLIPS = {
  name: dataclasses.replace(
    CLIP_SIZES[size],
    depth=2,
    width=width,
    num_heads=width // 64,
    mlp_width=3 * width,
    projection_dim=width,
    vocab_size=20,
    max_length=7,
  )
  for name, size, width in (("clip_l", "L", 64), ("clip_g", "G", 128))
}
ENCODERS = {"text_encoder": T5, "vae": VAE, **CLIPS}


def read(name, part, **changes):
  config = part.config
  if config is not None:
    config = JsonConfig(config.path, {**config.fields, **changes})
  return read_config(name, part.scheme, part.tensors, config)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_from_fields_and_shapes(sd3_folder, single_file, name):
  for path in (sd3_folder, single_file):
    assert read(name, open_checkpoint(path).networks[name]) == ENCODERS[name]


@pytest.mark.parametrize("name", ["text_encoder", "vae", "clip_g"])
def test_json_builds_the_same_encoder(name):
  """In the class and with the shapes of the published one."""
  fields = hub_json(ENCODERS[name])
  made = {
    "text_encoder": lambda: transformers.T5EncoderModel(
      transformers.T5Config(**fields)
    ),
    "vae": lambda: diffusers.AutoencoderKL.from_config(fields),
    "clip_g": lambda: transformers.CLIPTextModelWithProjection(
      transformers.CLIPTextConfig(**fields)
    ),
  }[name]()
  reference = {
    "text_encoder": checkpoints.t5_encoder,
    "vae": checkpoints.autoencoder,
    "clip_g": lambda: checkpoints.clip_encoder(128),
  }[name]()
  shapes = {k: v.shape for k, v in made.state_dict().items()}
  assert shapes == {k: v.shape for k, v in reference.state_dict().items()}
  for field in ("dense_act_fn", "eos_token_id", "hidden_act", "shift_factor"):
    wanted = getattr(reference.config, field, None)
    assert getattr(made.config, field, None) == wanted


def test_json_of_t5_xxl():
  xxl = hub_json(T5_SIZES["xxl"])
  assert (xxl["d_ff"], xxl["vocab_size"]) == (10240, 32128)


@pytest.mark.parametrize(
  ("name", "field", "value"),
  [
    ("text_encoder", "feed_forward_proj", "relu"),
    ("text_encoder", "d_kv", None),
    ("text_encoder", "layer_norm_epsilon", "small"),
    ("vae", "act_fn", "relu"),
    ("vae", "out_channels", 4),
    ("vae", "block_out_channels", 32),
    ("clip_l", "hidden_act", "relu"),
    ("clip_l", "projection_dim", None),
    # The field says so, or is absent: diffusers then builds them as well.
    ("vae", "use_quant_conv", True),
    ("vae", "use_quant_conv", None),
    ("vae", "use_post_quant_conv", True),
    ("vae", "use_post_quant_conv", None),
  ],
)
def test_bad_fields_of_encoders_are_named(sd3_folder, name, field, value):
  part = open_checkpoint(sd3_folder).networks[name]
  with pytest.raises(InputError, match=rf"config.json .*{field}"):
    read(name, part, **{field: value})


@pytest.mark.parametrize(
  ("name", "key", "message"),
  [
    ("clip_l", "text_model.embeddings.position_embedding.weight", "position"),
    ("text_encoder", "shared.weight", r"lacks tensor shared.weight"),
    ("vae", "encoder.down.", "incomplete"),
  ],
)
def test_missing_tensors_are_named(single_file, name, key, message):
  part = open_checkpoint(single_file).networks[name]
  few = {k: v for k, v in part.tensors.items() if not k.startswith(key)}
  with pytest.raises(InputError, match=message):
    read(name, dataclasses.replace(part, tensors=few))


NUMBERS = {
  "network": (
    *("num_layers", "num_attention_heads", "patch_size", "in_channels"),
    *("pos_embed_max_size", "joint_attention_dim", "attention_head_dim"),
    *("sample_size", "pooled_projection_dim"),
  ),
  "text_encoder": ("d_kv", "num_layers", "layer_norm_epsilon", "d_model"),
  "vae": ("scaling_factor", "norm_num_groups", "layers_per_block"),
  "clip_l": ("layer_norm_eps", "max_position_embeddings"),
}


@pytest.mark.parametrize(
  ("name", "field"),
  [(name, field) for name, fields in NUMBERS.items() for field in fields],
)
def test_numbers_are_finite_and_positive(sd3_folder, name, field):
  part = open_checkpoint(sd3_folder).networks[name]
  for value in (0, -1, float("nan"), float("inf"), 10**400, True, [1]):
    with pytest.raises(InputError, match=rf"config.json has {field} = ") as e:
      read(name, part, **{field: value})
    assert "fetch it again" in str(e.value)


def test_a_shift_has_any_sign_and_is_finite(sd3_folder):
  part = open_checkpoint(sd3_folder).networks["vae"]
  for value in (0, -0.5):
    assert read("vae", part, shift_factor=value).shift == value
  with pytest.raises(InputError, match="shift_factor = nan, but it must be fi"):
    read("vae", part, shift_factor=float("nan"))


def test_the_sample_holds_a_patch(sd3_folder):
  with pytest.raises(InputError, match="sample_size = 1, below its patch_size"):
    with_fields(sd3_folder, sample_size=1)


@pytest.mark.slow
def test_damaged_configs_are_read_or_refused_by_a_line(sd3_folder):
  rng, counts = random.Random(1), collections.Counter()
  source = open_checkpoint(sd3_folder)
  for name, part in source.networks.items():
    text = part.config.path.read_text()
    path = sd3_folder.parent / "damaged.json"
    for number in range(600):
      damage = damaged_json(text, rng)
      if number % 3 == 0:
        damage = damaged_bytes(text.encode(), rng)
      path.write_bytes(damage)
      try:
        read_config(name, part.scheme, part.tensors, JsonConfig.read(path))
        counts["read"] += 1
      except ValueError as error:
        assert "\n" not in one_line(error)
        counts["refused"] += 1
    path.unlink()
  assert counts.total() == 600 * len(source.networks)
  assert min(counts.values()) > 100


def test_arrays_of_the_published_sizes():
  shapes = array_shapes(SIZES["sd3_medium"])
  assert shapes["constants/position_table"] == (192, 192, 1536)
  assert shapes["params/blocks/text/qkv/kernel"] == (24, 1536, 3, 24, 64)
  xxl = array_shapes(T5_SIZES["xxl"])
  assert xxl["params/blocks/mlp_gate/kernel"] == (24, 4096, 10240)
