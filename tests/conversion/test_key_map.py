"""The key map at full size, against the published checkpoints."""

import math

import pytest

from ddit_jax.conversion.configs import array_shapes
from ddit_jax.conversion.key_map import FORMATS, KEY_SCHEMES
from ddit_jax.conversion.slices import blocks_of, tensor_slices
from ddit_jax.encoders.clip import CLIP_SIZES
from ddit_jax.encoders.clip_vision import CLIP_VISION_SIZES
from ddit_jax.encoders.t5 import T5_SIZES
from ddit_jax.encoders.vae import AutoencoderConfig
from ddit_jax.models.config import SIZES
from ddit_jax.models.gpt2 import GPT2_SIZES

DDIT, SD3 = SIZES["sd3_medium"], SIZES["sd3_medium_base"]
T5, VAE = T5_SIZES["xxl"], AutoencoderConfig()
POSITION_TABLE = 56_623_104
# Scheme, configuration, tensors, numbers of the published checkpoints.
PUBLISHED = [
  ("ddit", DDIT, 688, 2_102_856_100 + POSITION_TABLE),
  ("sd3", SD3, 683, 2_028_328_000 + POSITION_TABLE),
  ("stability", SD3, 491, 2_028_328_000 + POSITION_TABLE),
  ("t5", T5, 219, 4_762_310_656),
  ("vae", VAE, 244, 83_819_683),
  ("stability_vae", VAE, 244, 83_819_683),
  ("clip", CLIP_SIZES["L"], 197, 123_650_304),
  ("clip", CLIP_SIZES["G"], 517, 694_659_840),
  ("clip_vision", CLIP_VISION_SIZES["L"], 392, 303_966_208),
  ("gpt2", GPT2_SIZES["gpt2"], 148, 124_439_808),
]
# Some keys and shapes of each published list, written out by hand.
PUBLISHED_SHAPES = {
  "ddit": {
    "null_image_embd": (1, 8, 1536),
    "pos_embed.pos_embed": (1, 36864, 1536),
    "pos_embed.proj.weight": (1536, 16, 2, 2),
    "transformer_blocks.23.norm1_context.linear.weight": (9216, 1536),
    "transformer_blocks.23.ff_context.net.2.weight": (1536, 6144),
    "image_norm_out.linear.weight": (3072, 1536),
    "text_proj_out.weight": (32100, 1536),
  },
  "sd3": {
    "transformer_blocks.22.attn.to_add_out.bias": (1536,),
    "transformer_blocks.23.norm1_context.linear.weight": (3072, 1536),
    "time_text_embed.text_embedder.linear_1.weight": (1536, 2048),
    "norm_out.linear.bias": (3072,),
    "proj_out.weight": (64, 1536),
  },
  "stability": {
    "pos_embed": (1, 36864, 1536),
    "joint_blocks.0.x_block.attn.qkv.weight": (4608, 1536),
    "joint_blocks.23.context_block.adaLN_modulation.1.bias": (3072,),
    "final_layer.linear.weight": (64, 1536),
  },
  "t5": {
    "shared.weight": (32128, 4096),
    "encoder.block.23.layer.1.DenseReluDense.wi_1.weight": (10240, 4096),
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (
      32,
      64,
    ),
  },
  "vae": {
    "encoder.down_blocks.1.resnets.0.conv_shortcut.weight": (256, 128, 1, 1),
    "encoder.mid_block.attentions.0.to_q.weight": (512, 512),
    "decoder.up_blocks.3.resnets.2.conv2.weight": (128, 128, 3, 3),
  },
  "stability_vae": {
    "encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
    "decoder.mid.attn_1.proj_out.weight": (512, 512, 1, 1),
    "decoder.up.0.block.0.conv1.weight": (128, 256, 3, 3),
    "decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
  },
}


def mapped(scheme, config):
  return [s for s in tensor_slices(scheme, config) if s.key is not None]


def numbers(slices):
  return sum(math.prod(found.shape) for found in slices)


@pytest.mark.parametrize(("scheme", "config", "tensors", "count"), PUBLISHED)
def test_published_counts(scheme, config, tensors, count):
  slices = mapped(scheme, config)
  assert len({found.key for found in slices}) == len(slices) == tensors
  assert sum(math.prod(found.their_shape) for found in slices) == count
  # Each number of ours has one source: raises if not.
  blocks_of(slices, array_shapes(config))
  assert numbers(slices) == count


@pytest.mark.parametrize("scheme", PUBLISHED_SHAPES)
def test_published_shapes(scheme):
  config = next(c for s, c, _, _ in PUBLISHED if s == scheme)
  shapes = {found.key: found.their_shape for found in mapped(scheme, config)}
  expected = PUBLISHED_SHAPES[scheme]
  assert {key: shapes.get(key) for key in expected} == expected


@pytest.mark.parametrize("scheme", ["sd3", "stability"])
def test_sd3_to_ddit(scheme):
  slices = tensor_slices(f"{scheme}_to_ddit", DDIT)
  taken = [found for found in slices if found.key is not None]
  new = [found for found in slices if found.key is None]
  # All but the pooled-text embedder.
  assert len(mapped(scheme, SD3)) - len(taken) == 4
  # 2,074,721,344 in whole tensors, and the last block's two text rows.
  assert numbers(taken) == 2_074_721_344 + 2 * 1536 * (1536 + 1)
  assert numbers(new) == 70_592_868 + 4 * 1536 * (1536 + 1)
  assert numbers(slices) == 2_102_856_100 + POSITION_TABLE
  blocks_of(slices, array_shapes(DDIT))


def test_formats_use_every_scheme():
  used = {s for f in FORMATS.values() for _, s in f.networks.values()}
  used |= {f"{scheme}_to_ddit" for scheme in ("sd3", "stability")}
  assert used | {"clip_without_projection"} == KEY_SCHEMES.keys()
  assert [known.letter for known in FORMATS.values()] == list("abcgv")
