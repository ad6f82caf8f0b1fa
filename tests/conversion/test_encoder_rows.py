"""The encoders' names at full size, against the published checkpoints."""

import math

import pytest

from ddit_jax.conversion.components import array_shapes, counters, pattern_sizes
from ddit_jax.conversion.plan import expected_pieces, fresh_pieces, slabs
from ddit_jax.encoders.clip import CLIP_SIZES
from ddit_jax.encoders.t5 import T5_SIZES
from ddit_jax.encoders.vae import AutoencoderConfig

T5, VAE = T5_SIZES["xxl"], AutoencoderConfig()
# Naming, configuration, tensors, numbers: of the published checkpoints.
PUBLISHED = [
  ("t5", T5, 219, 4_762_310_656),
  ("folder_vae", VAE, 244, 83_819_683),
  ("single_vae", VAE, 244, 83_819_683),
  ("clip", CLIP_SIZES["L"], 197, 123_650_304),
  ("clip", CLIP_SIZES["G"], 517, 694_659_840),
]
# Some names and shapes of each published list, written out by hand.
PUBLISHED_SHAPES = {
  "t5": {
    "shared.weight": (32128, 4096),
    "encoder.block.23.layer.1.DenseReluDense.wi_1.weight": (10240, 4096),
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (
      32,
      64,
    ),
  },
  "folder_vae": {
    "encoder.down_blocks.1.resnets.0.conv_shortcut.weight": (256, 128, 1, 1),
    "encoder.mid_block.attentions.0.to_q.weight": (512, 512),
    "decoder.up_blocks.3.resnets.2.conv2.weight": (128, 128, 3, 3),
  },
  "single_vae": {
    "encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
    "decoder.mid.attn_1.proj_out.weight": (512, 512, 1, 1),
    "decoder.up.0.block.0.conv1.weight": (128, 256, 3, 3),
    "decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
  },
}


def pieces_of(naming, config):
  return expected_pieces(
    naming,
    array_shapes(config),
    counts=counters(config),
    sizes=pattern_sizes(config),
  )


def all_slabs(naming, config):
  shapes = array_shapes(config)
  fresh = fresh_pieces(naming, shapes, counters(config))
  return slabs(pieces_of(naming, config), fresh, shapes)


@pytest.mark.parametrize(("naming", "config", "tensors", "numbers"), PUBLISHED)
def test_published_counts(naming, config, tensors, numbers):
  pieces = pieces_of(naming, config)
  assert len({piece.name for piece in pieces}) == len(pieces) == tensors
  assert sum(math.prod(piece.shape) for piece in pieces) == numbers
  # Each of our numbers has one source, so ours are as many.
  found = all_slabs(naming, config)
  assert sum(math.prod(slab.shape) for slab in found) == numbers


@pytest.mark.parametrize("naming", PUBLISHED_SHAPES)
def test_published_shapes(naming):
  config = next(c for n, c, _, _ in PUBLISHED if n == naming)
  shapes = {piece.name: piece.shape for piece in pieces_of(naming, config)}
  expected = PUBLISHED_SHAPES[naming]
  assert {name: shapes.get(name) for name in expected} == expected


def test_clip_without_projection_starts_with_the_identity():
  config = CLIP_SIZES["L"]
  naming = "clip_without_projection"
  assert len(pieces_of(naming, config)) == 196
  (fresh,) = fresh_pieces(naming, array_shapes(config), counters(config))
  assert (fresh.init, fresh.shape) == ("identity", (768, 768))
