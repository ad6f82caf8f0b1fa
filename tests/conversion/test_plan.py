"""Every number gets one source, and names are compared."""

import dataclasses

import numpy as np
import pytest

from ddit_jax.conversion.components import array_shapes, counters, pattern_sizes
from ddit_jax.conversion.errors import ConversionError
from ddit_jax.conversion.plan import (
  FreshPiece,
  check_names,
  expected_pieces,
  slabs,
)
from ddit_jax.models.config import SIZES

DDIT = SIZES["sd3_medium"]


def pieces_of(naming, config):
  return expected_pieces(
    naming,
    array_shapes(config),
    counts=counters(config),
    sizes=pattern_sizes(config),
  )


def small(config):
  return dataclasses.replace(config, depth=2, width=64, num_heads=2)


def test_other_sizes_follow_the_configuration():
  config = dataclasses.replace(small(DDIT), vocab_size=77, max_grid=5)
  shapes = {p.name: p.shape for p in pieces_of("ddit_network", config)}
  assert shapes["text_proj_out.weight"] == (77, 64)
  assert shapes["pos_embed.pos_embed"] == (1, 25, 64)
  assert len(shapes) == 688 - 22 * 28


def test_a_number_without_source_is_a_bug():
  shapes = array_shapes(small(DDIT))
  pieces = pieces_of("ddit_network", small(DDIT))
  q = next(p for p in pieces if p.name.endswith("to_q.weight"))
  with pytest.raises(AssertionError, match="exactly once"):
    slabs([p for p in pieces if p is not q], [], shapes)
  with pytest.raises(AssertionError, match="exactly once"):
    slabs([*pieces, q], [], shapes)
  head = [p for p in pieces if "text_proj_out.weight" not in p.name]
  with pytest.raises(AssertionError, match="text_head/project/kernel"):
    slabs(head, [], shapes)


def test_fresh_pieces_count_as_sources():
  shapes = {"params/a": (4, 3)}
  halves = [
    FreshPiece(
      array="params/a",
      block=None,
      index=(slice(*ends), slice(None)),
      shape=(2, 3),
      init="zeros",
    )
    for ends in ((0, 2), (2, 4), (1, 3))
  ]
  assert len(slabs([], halves[:2], shapes)) == 1
  with pytest.raises(AssertionError, match="exactly once"):
    slabs([], [halves[0], halves[2]], shapes)


def test_names_are_compared():
  naming = "sd3_network_into_ddit"
  pieces = pieces_of(naming, small(DDIT))
  names = {piece.name: None for piece in pieces}
  assert check_names(naming, names, pieces, "F") == {}
  pooled = "time_text_embed.text_embedder.linear_1.bias"
  known = check_names(naming, names | {pooled: None}, pieces, "F")
  assert "pooled-text branch" in known[pooled].reason
  with pytest.raises(ConversionError, match=r"F has tensors.*takes: strange;"):
    check_names(naming, names | {"strange": None}, pieces, "F")
  del names["proj_out.bias"]
  with pytest.raises(ConversionError, match=r"F lacks 1 of 63.*proj_out.bias"):
    check_names(naming, names, pieces, "F")


def test_pieces_move_numbers_to_their_place():
  pieces = pieces_of("single_network_into_ddit", small(DDIT))
  name = "joint_blocks.1.context_block.adaLN_modulation.1.bias"
  (piece,) = (p for p in pieces if p.name == name)
  stored = np.arange(2 * 64)  # shift, then scale
  slab = np.zeros(piece.slab_shape)
  slab[piece.index] = piece.to_ours(stored)
  np.testing.assert_array_equal(slab[0], stored[:64])
  np.testing.assert_array_equal(slab[1], stored[64:])
  assert not slab[2:].any()
  np.testing.assert_array_equal(piece.to_theirs(slab[piece.index]), stored)
