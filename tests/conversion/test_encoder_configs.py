"""Configurations of the encoders, from `config.json`, shapes, and back."""

import diffusers
import pytest
import transformers

from ddit_jax.conversion.config_fields import JsonConfig
from ddit_jax.conversion.encoder_configs import (
  clip_config,
  clip_json,
  t5_config,
  t5_json,
  vae_config,
  vae_json,
)
from ddit_jax.conversion.errors import ConversionError
from ddit_jax.conversion.layouts import open_source
from ddit_jax.encoders.clip import CLIP_SIZES
from ddit_jax.encoders.t5 import T5_SIZES, T5Config
from ddit_jax.encoders.vae import AutoencoderConfig
from tests.conversion import checkpoints

T5 = T5Config(
  depth=2, width=32, num_heads=3, head_dim=4, mlp_width=40, vocab_size=16
)
VAE = AutoencoderConfig(block_widths=(32, 64, 64), layers_per_block=1)


@pytest.fixture
def parts(sd3_folder, single_file):
  return [open_source(p).components for p in (sd3_folder, single_file)]


def test_t5_from_fields_and_shapes(parts):
  for part in (p["text_encoder"] for p in parts):
    assert t5_config(part.tensors, part.config) == T5


def test_vae_from_fields_and_shapes(parts):
  for part in (p["vae"] for p in parts):
    assert vae_config(part.tensors, part.config) == VAE


@pytest.mark.parametrize(("name", "size"), [("clip_l", "L"), ("clip_g", "G")])
def test_clip_from_fields_and_shapes(parts, name, size):
  found = [clip_config(p[name].tensors, p[name].config, size) for p in parts]
  assert found[0] == found[1]
  assert found[0].width == {"L": 64, "G": 128}[size]
  assert found[0].activation == CLIP_SIZES[size].activation


def test_t5_json_builds_the_same_encoder():
  config = transformers.T5Config(**t5_json(T5))
  shapes = {
    k: tuple(v.shape)
    for k, v in transformers.T5EncoderModel(config).state_dict().items()
  }
  reference = checkpoints.t5_encoder().state_dict()
  assert shapes == {k: tuple(v.shape) for k, v in reference.items()}
  assert config.dense_act_fn == "gelu_new" and config.is_gated_act
  xxl = t5_json(T5_SIZES["xxl"])
  assert (xxl["d_ff"], xxl["vocab_size"]) == (10240, 32128)


def test_clip_json_builds_the_same_encoder(parts):
  part = parts[0]["clip_g"]
  fields = clip_json(clip_config(part.tensors, part.config, "G"))
  config = transformers.CLIPTextConfig(**fields)
  reference = checkpoints.clip_encoder(128)
  assert config.eos_token_id == reference.config.eos_token_id
  assert config.hidden_act == "gelu"
  model = transformers.CLIPTextModelWithProjection(config)
  shapes = {k: v.shape for k, v in model.state_dict().items()}
  assert shapes == {k: v.shape for k, v in reference.state_dict().items()}


def test_vae_json_builds_the_same_autoencoder():
  model = diffusers.AutoencoderKL.from_config(vae_json(VAE))
  reference = checkpoints.autoencoder()
  shapes = {k: v.shape for k, v in model.state_dict().items()}
  assert shapes == {k: v.shape for k, v in reference.state_dict().items()}
  assert model.config.shift_factor == 0.0609


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
  ],
)
def test_bad_fields_are_named(parts, name, field, value):
  part = parts[0][name]
  config = JsonConfig(part.config.path, {**part.config.fields, field: value})
  read = {
    "text_encoder": t5_config,
    "vae": vae_config,
    "clip_l": lambda t, c: clip_config(t, c, "L"),
  }[name]
  with pytest.raises(ConversionError, match=field):
    read(part.tensors, config)


@pytest.mark.parametrize("field", ["use_quant_conv", "use_post_quant_conv"])
def test_autoencoders_with_quant_convolutions_are_refused(parts, field):
  """The field says so, or is absent: diffusers then builds them as well."""
  assert getattr(diffusers.AutoencoderKL(norm_num_groups=2).config, field)
  part = parts[0]["vae"]
  fields = {k: v for k, v in part.config.fields.items() if k != field}
  for changed in ({**fields, field: True}, fields):
    with pytest.raises(
      ConversionError, match=rf"config.json .*{field}.* no such convolution"
    ):
      vae_config(part.tensors, JsonConfig(part.config.path, changed))


def test_missing_tensors_are_named(parts):
  part = parts[1]["clip_l"]
  some = {"text_model.embeddings.token_embedding.weight"}
  few = {k: v for k, v in part.tensors.items() if k in some}
  with pytest.raises(ConversionError, match=r"lacks tensor .*position_emb"):
    clip_config(few, None, "L")
  with pytest.raises(ConversionError, match=r"lacks tensor shared.weight"):
    t5_config({}, None)
  with pytest.raises(ConversionError, match="incomplete"):
    vae_config({}, None)
