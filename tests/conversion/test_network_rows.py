"""The network's names at full size, against the published checkpoints."""

import math

import pytest

from ddit_jax.conversion.components import array_shapes, counters, pattern_sizes
from ddit_jax.conversion.plan import expected_pieces, fresh_pieces, slabs
from ddit_jax.models.config import SIZES

DDIT, SD3 = SIZES["sd3_medium"], SIZES["sd3_medium_base"]
POSITION_TABLE = 56_623_104
# Naming, configuration, tensors, numbers: of the published checkpoints.
PUBLISHED = [
  ("ddit_network", DDIT, 688, 2_102_856_100 + POSITION_TABLE),
  ("sd3_network", SD3, 683, 2_028_328_000 + POSITION_TABLE),
  ("single_network", SD3, 491, 2_028_328_000 + POSITION_TABLE),
]
# Some names and shapes of each published list, written out by hand.
PUBLISHED_SHAPES = {
  "ddit_network": {
    "null_image_embd": (1, 8, 1536),
    "pos_embed.pos_embed": (1, 36864, 1536),
    "pos_embed.proj.weight": (1536, 16, 2, 2),
    "transformer_blocks.23.norm1_context.linear.weight": (9216, 1536),
    "transformer_blocks.23.ff_context.net.2.weight": (1536, 6144),
    "image_norm_out.linear.weight": (3072, 1536),
    "text_proj_out.weight": (32100, 1536),
  },
  "sd3_network": {
    "transformer_blocks.22.attn.to_add_out.bias": (1536,),
    "transformer_blocks.23.norm1_context.linear.weight": (3072, 1536),
    "time_text_embed.text_embedder.linear_1.weight": (1536, 2048),
    "norm_out.linear.bias": (3072,),
    "proj_out.weight": (64, 1536),
  },
  "single_network": {
    "pos_embed": (1, 36864, 1536),
    "joint_blocks.0.x_block.attn.qkv.weight": (4608, 1536),
    "joint_blocks.23.context_block.adaLN_modulation.1.bias": (3072,),
    "final_layer.linear.weight": (64, 1536),
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


@pytest.mark.parametrize(
  ("naming", "left_over"),
  [("sd3_network_into_ddit", 683 - 679), ("single_network_into_ddit", 4)],
)
def test_sd3_into_ddit(naming, left_over):
  pieces = pieces_of(naming, DDIT)
  source = pieces_of(naming.removesuffix("_into_ddit"), SD3)
  assert len(source) - len(pieces) == left_over
  copied = sum(math.prod(piece.shape) for piece in pieces)
  # 2,074,721,344 in whole tensors, and the last block's two text rows.
  assert copied == 2_074_721_344 + 2 * 1536 * (1536 + 1)
  fresh = fresh_pieces(naming, array_shapes(DDIT), counters(DDIT))
  started = sum(math.prod(piece.shape) for piece in fresh)
  assert started == 70_592_868 + 4 * 1536 * (1536 + 1)
  assert copied + started == 2_102_856_100 + POSITION_TABLE
  all_slabs(naming, DDIT)


def test_fresh_initialisations():
  naming = "sd3_network_into_ddit"
  fresh = fresh_pieces(naming, array_shapes(DDIT), counters(DDIT))
  inits = {piece.array: piece.init for piece in fresh}
  assert inits["params/text_head/project/kernel"] == "normal(0, 0.02)"
  assert inits["params/text_head/project/bias"] == "zeros"
  assert inits["params/null_image"] == f"normal(0, {1536**-0.5:.6g})"
  gates = "params/blocks/text/modulation/project/kernel"
  assert inits[gates] == "zeros"
  (piece,) = (piece for piece in fresh if piece.array == gates)
  assert (piece.block, piece.index[1]) == (23, slice(2, 6))
